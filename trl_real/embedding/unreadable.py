"""Warn if an embedder does not support the language of the responses, so that its vectors cannot tell them apart."""

import logging
from typing import Any

import numpy as np


logger = logging.getLogger(__name__)

MULTILINGUAL = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
# Fewer texts than this share may be an accident.
SHARE = 0.1
# How many texts, and how many characters per text, are checked for unknown tokens.
TEXTS, CHARACTERS = 200, 500
_warned = set[str]()


def warn_of_unreadable(sentences: list[str], vectors: np.ndarray, model: Any, name: str) -> None:
    """Warn once per embedder if many of these different texts are unknown tokens to it, or have equal vectors."""
    if name in _warned or len(sentences) < 2:
        return
    unknown, equal = _unknown(sentences, model), _equal(vectors)
    for found, why in ((unknown, "are mostly unknown tokens"), (equal, "have the same vector as another response")):
        if found is not None and found.mean() > SHARE:
            _warned.add(name)
            logger.warning(
                "%d of %d different responses %s, for example %.60r. The embedder %s does not support their language or script, "
                "so picks among them are meaningless. The default embedder is for English: choose another one, for example "
                "`embedder=%r`.",
                found.sum(),
                len(found),
                why,
                sentences[int(found.argmax())],
                name,
                MULTILINGUAL,
            )
            return


def _unknown(sentences: list[str], model: Any) -> np.ndarray | None:
    """Which of the first texts are mostly unknown tokens, `(n,)`; `None` if the tokenizer has no unknown token."""
    tokenizer = getattr(model, "tokenizer", None)
    token = getattr(tokenizer, "unk_token_id", None)
    if token is None or not callable(tokenizer):
        return None
    texts = [text[:CHARACTERS] for text in sentences[:TEXTS]]
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return np.array([row.count(token) > len(row) / 2 for row in ids], dtype=bool)


def _equal(vectors: np.ndarray) -> np.ndarray:
    """Which vectors have the same direction as another one, `(n,)`."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    _, inverse, counts = np.unique(
        (vectors / np.maximum(norms, 1e-12)).round(4), axis=0, return_inverse=True, return_counts=True
    )
    return counts[inverse.ravel()] > 1

"""A warning where an embedder cannot read what it embeds: its vectors would tell nothing apart."""

import logging
from typing import Any

import numpy as np


logger = logging.getLogger(__name__)

MULTILINGUAL = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
# From this share of the texts on it is no accident.
SHARE = 0.1
# How many texts, and how many characters of each, are looked at for unknown tokens.
TEXTS, CHARACTERS = 200, 500
_warned = set[str]()


def warn_of_unreadable(sentences: list[str], vectors: np.ndarray, model: Any, name: str) -> None:
    """Say once of an embedder that many of these different texts are unknown tokens to it, or have equal vectors."""
    if name in _warned or len(sentences) < 2:
        return
    unknown, equal = _unknown(sentences, model), _equal(vectors)
    for found, why in ((unknown, "are mostly unknown tokens"), (equal, "have the same vector as another one")):
        if found is not None and found.mean() > SHARE:
            _warned.add(name)
            logger.warning(
                "Of %d different responses %d %s, such as %.60r: the embedder %s does not know their language or script, and "
                "picks among them tell nothing. The default embedder is made for English: name another, for example "
                "`embedder=%r`.",
                len(found),
                found.sum(),
                why,
                sentences[int(found.argmax())],
                name,
                MULTILINGUAL,
            )
            return


def _unknown(sentences: list[str], model: Any) -> np.ndarray | None:
    """Which of the first texts consist of more unknown tokens than others, `(n,)`; `None` if the tokenizer knows no such token."""
    tokenizer = getattr(model, "tokenizer", None)
    token = getattr(tokenizer, "unk_token_id", None)
    if token is None or not callable(tokenizer):
        return None
    texts = [text[:CHARACTERS] for text in sentences[:TEXTS]]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return np.array([row.count(token) > len(row) / 2 for row in ids], dtype=bool)


def _equal(vectors: np.ndarray) -> np.ndarray:
    """Which vectors point where another one does, `(n,)`."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    _, inverse, counts = np.unique(
        (vectors / np.maximum(norms, 1e-12)).round(4), axis=0, return_inverse=True, return_counts=True
    )
    return counts[inverse.ravel()] > 1

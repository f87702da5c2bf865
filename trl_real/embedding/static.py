"""
The static tier: an embedder that looks up one vector per token and takes their mean, distilled from a Sentence Transformers model.

The method is that of Model2Vec (https://github.com/MinishLab/model2vec). Its package distills with an older Transformers only, so
the three steps are here: the model embeds each token of its vocabulary on its own, a principal component analysis keeps 256
dimensions, and frequent tokens get less weight.
"""

import hashlib
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from huggingface_hub import constants
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy.sparse import csr_array
from tokenizers import Tokenizer

from ..core.files import sha256, write_text
from .identity import STATIC
from .tokens import read_ids


if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


logger = logging.getLogger(__name__)

DIM = 256
SIF = 1e-4  # a token of this frequency gets half the weight of a rare one
BATCH = 512  # tokens that the model embeds at once
TEXTS = 1024  # texts that are tokenized at once
UNUSED = re.compile(r"\[unused\d+\]")  # what the vocabulary of BERT reserves, and no text contains
TABLE, TOKENIZER = "model.safetensors", "tokenizer.json"


class StaticEmbedder:
    """
    The normalized mean of the vectors of the first tokens of a text. It needs no forward pass and no PyTorch.

    Args:
        table (`np.ndarray` of shape `(n_tokens, dim)`):
            The vector of each token.
        tokenizer ([`~tokenizers.Tokenizer`]):
            The tokenizer.
        max_seq_length (`int`):
            The maximum number of tokens of a text to embed.
    """

    def __init__(self, table: np.ndarray, tokenizer: Tokenizer, max_seq_length: int):
        self.tokenizer, self.max_seq_length = _Tokenizer(tokenizer), max_seq_length
        self._table = table

    @classmethod
    def load(cls, folder: Path) -> "StaticEmbedder":
        """Load what [`distill`] has written."""
        with safe_open(folder / TABLE, "numpy") as file:
            table, limit = file.get_tensor("embedding.weight"), int(file.metadata()["max_seq_length"])
        return cls(table, Tokenizer.from_file(str(folder / TOKENIZER)), limit)

    def encode(self, sentences: list[str]) -> np.ndarray:
        """Embed texts: `(n_texts, dim)` float32, zeros for a text without a token."""
        return self.read(sentences)[0]

    def read(self, sentences: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Embed texts and count their tokens: `(n_texts, dim)` float32 and `(n_texts,)`."""
        batches = [self._read(sentences[start : start + TEXTS]) for start in range(0, len(sentences), TEXTS)]
        vectors, counts = zip(*batches, strict=True)
        return np.concatenate(vectors), np.concatenate(counts)

    def _read(self, sentences: list[str]) -> tuple[np.ndarray, np.ndarray]:
        _, ids, counts = read_ids(self.tokenizer, self.max_seq_length, sentences)
        tokens = [np.array(text[: self.max_seq_length], np.int32) for text in ids]
        occurs = csr_array(  # a token that occurs twice counts twice
            (np.ones(sum(map(len, tokens)), np.float32), np.concatenate(tokens), np.cumsum([0, *map(len, tokens)])),
            shape=(len(sentences), len(self._table)),
        )
        sums = occurs @ self._table
        return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12), counts


class _Tokenizer:
    """A tokenizer that adds no special tokens, as the rest of this package calls one of Transformers."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        unknown = getattr(tokenizer.model, "unk_token", None)
        self.unk_token_id = None if unknown is None else tokenizer.token_to_id(unknown)

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [text.ids for text in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]}


def static_folder(revision: str) -> Path:
    """The folder in the cache for the static embedder of a model, another one for each version of the model and of this module."""
    key = hashlib.sha256(f"{revision} {sha256(Path(__file__))}".encode()).hexdigest()
    return Path(constants.HF_HOME) / "trl_real" / f"static-{key[:16]}"


def distill(model: "SentenceTransformer", folder: Path) -> None:
    """Write the static embedder of a model to a folder: the vectors of its tokens, its limit and its tokenizer."""
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            "a static embedder can only be distilled from a transformer with a fast tokenizer. If the model is static already, "
            f"leave out {STATIC!r}."
        )
    vocabulary = sorted(backend.get_vocab(with_added_tokens=False).items(), key=lambda token: token[1])
    special = {*model.tokenizer.all_special_ids} - {model.tokenizer.unk_token_id}
    ids = np.array([i for token, i in vocabulary if i not in special and UNUSED.fullmatch(token) is None])
    logger.warning("Distilling the static embedder, once: %s tokens.", f"{len(ids):,}")
    vectors = _principal(_embed_tokens(model, ids))
    table = np.zeros((max(backend.get_vocab().values()) + 1, vectors.shape[1]), np.float32)
    table[ids] = vectors * _weights(len(ids))[:, None]
    tokenizer = Tokenizer.from_str(backend.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    save_file({"embedding.weight": table}, folder / TABLE, {"max_seq_length": str(model.max_seq_length)})
    write_text(folder / TOKENIZER, tokenizer.to_str(pretty=True))


def _embed_tokens(model: "SentenceTransformer", ids: np.ndarray) -> np.ndarray:
    """The embedding of each token as a text of its own, between the special tokens of the model: `(n, dim)`."""
    import torch

    text, alone = (model.tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
    start = text.index(alone[0])
    before, after = torch.tensor(text[:start]), torch.tensor(text[start + len(alone) :])
    vectors = []
    with torch.inference_mode():
        for batch in torch.from_numpy(ids).split(BATCH):  # type: ignore[no-untyped-call]
            frames = [frame.long().expand(len(batch), -1) for frame in (before, after)]
            tokens = torch.cat([frames[0], batch[:, None], frames[1]], dim=1).to(model.device)
            found = model({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
            vectors.append(found["sentence_embedding"].float().cpu().numpy())
    return np.concatenate(vectors)


def _principal(vectors: np.ndarray) -> np.ndarray:
    """The vectors in their principal components, at most `DIM` of them."""
    centered = vectors - vectors.mean(0)
    _, components = np.linalg.eigh(centered.T @ centered)
    return centered @ components[:, ::-1][:, :DIM]


def _weights(n: int) -> np.ndarray:
    """
    Smooth inverse frequencies of n tokens (Arora et al., 2017). Vocabularies list frequent tokens first, so their frequencies are
    estimated by Zipf's law.
    """
    frequency = 1 / np.arange(2, n + 2)
    return SIF / (SIF + frequency / frequency.sum())

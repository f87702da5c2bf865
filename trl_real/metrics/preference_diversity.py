"""The diversity of a preference dataset: `PreferenceDiversity`."""

import re
from typing import Any

import numpy as np
from datasets import List, Value
from evaluate import EvaluationModuleInfo

from ..config import SelectionConfig
from ..core.columns import kind
from ..core.messages import is_messages, response_text
from ..embedding.embed import encode
from .base import ColumnsModule


# Words and punctuation marks.
TOKEN = re.compile(r"\w+|[^\w\s]")


class PreferenceDiversity(ColumnsModule):
    """
    The diversity of the responses in a preference dataset, by meaning and by words.

    Args:
        embedder (`str`, object or `None`, *optional*, defaults to `"sentence-transformers/all-MiniLM-L6-v2"`):
            The embedder, as in [`embed_responses`]. If `None`, the vectors come from the column `embeddings`.
        embedder_max_length, embedder_batch_size, embedder_dtype (*optional*):
            As in [`embed_responses`].
        **settings:
            The arguments of [`~evaluate.EvaluationModule`], such as `keep_in_memory` or `num_process`.

    `compute`, `add_batch` and `add` take:
        chosen, rejected (`list[str]` of n, or of n lists of messages):
            The two responses of each pair, as [`real_select`] returns them.
        embeddings (array of shape `(n, 2, dim)`), only with `embedder=None`:
            The embeddings of both responses, chosen first, as `pairs.map(embed_responses, batched=True)` computes them.

    Returns of `compute`:
        `dict`:

        - `cosine_distance`: the mean of 1 - cosine over all pairs among the 2 n responses, from 0 to 2. An empty response has
          the distance 1 to all others.
        - `pair_cosine_distance`: the same mean over the n given pairs.
        - `distinct_1`, `distinct_2` and `distinct_3`: the number of distinct n-grams divided by the number of n-grams, from 0
          to 1, and 0 without n-grams. Tokens are words and punctuation marks in lower case. Li et al. (2016) divide by the
          number of words instead. `distinct_n` falls as a dataset grows, so compare only datasets of the same size.

    Raises:
        `ValueError`: If a column is missing or empty, the columns differ in length, `embeddings` are not two finite vectors per
            row, or an option is not valid.
        `TypeError`: If a response is neither text nor messages, or an option is unknown.
        `OSError`: If the embedder cannot be found.

    Example:

    ```python
    >>> from trl_real import PreferenceDiversity

    >>> pairs = {"chosen": ["A cat sat.", "Rain fell."], "rejected": ["A cat ran.", "It is the rain that fell."]}
    >>> results = PreferenceDiversity().compute(**pairs)
    >>> round(results["distinct_1"], 2), results["cosine_distance"] > results["pair_cosine_distance"]
    (0.61, True)
    ```
    """

    def __init__(
        self,
        *,
        embedder: Any = SelectionConfig.embedder,
        embedder_max_length: int | None = SelectionConfig.embedder_max_length,
        embedder_batch_size: int = SelectionConfig.embedder_batch_size,
        embedder_dtype: str = SelectionConfig.embedder_dtype,
        **settings: Any,
    ):
        self.config = SelectionConfig(
            embedder=SelectionConfig.embedder if embedder is None else embedder,
            embedder_max_length=embedder_max_length,
            embedder_batch_size=embedder_batch_size,
            embedder_dtype=embedder_dtype,
        )
        self.embedder = embedder
        super().__init__(**settings)

    def _info(self) -> EvaluationModuleInfo:
        # `evaluate` requires all declared columns, so the column `embeddings` is declared only if it is used.
        embeddings = {} if self.embedder is not None else {"embeddings": List(List(Value("float32")), length=2)}
        return self._describe(
            {"chosen": Value("string"), "rejected": Value("string"), **embeddings},
            "Jiwei Li et al. A Diversity-Promoting Objective Function for Neural Conversation Models. NAACL 2016.",
            "https://arxiv.org/abs/1510.03055",
            "measurement",
        )

    def _read(self, name: str, column: Any) -> Any:
        return _two_vectors(column) if name == "embeddings" else [_text(name, r, row) for r, row in enumerate(column)]

    def compute(self, **columns: Any) -> dict[str, Any] | None:
        """Compute from the rows added before and the columns given here. Columns of other modules are ignored."""
        if columns.get("embeddings") is not None and self.embedder is not None:
            raise ValueError(
                "`compute` of `PreferenceDiversity` was given `embeddings`, but it computes its own. Use yours with "
                "`PreferenceDiversity(embedder=None)`, or leave them out."
            )
        return super().compute(**columns)

    def _compute(self, *, chosen: list[str], rejected: list[str], embeddings: Any = None) -> dict[str, float]:
        texts = chosen + rejected
        if embeddings is None:
            vectors, _ = encode(texts, self.config.embedder_options)
        else:
            vectors = _two_vectors(embeddings).swapaxes(0, 1).reshape(len(texts), -1)
        vectors = vectors.astype(np.float64)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        # The sum of all cosines is the squared norm of the sum of the unit vectors. Cosines of a vector with itself are excluded.
        n, total = len(vectors), vectors.sum(0)
        cosines = total @ total - (vectors * vectors).sum()
        of_pairs = (vectors[: n // 2] * vectors[n // 2 :]).sum(1)
        return {
            "cosine_distance": _distance(cosines / (n * (n - 1))),
            "pair_cosine_distance": _distance(of_pairs.mean()),
            **{f"distinct_{n}": share for n, share in enumerate(_distinct(texts), 1)},
        }


def _text(name: str, r: int, response: Any) -> str:
    if not isinstance(response, str) and not is_messages(response):
        raise TypeError(
            f"Column `{name}`, row {r}: expected text or messages, found {kind(response)}. Remove such pairs."
        )
    return response_text(response)


def _two_vectors(column: Any) -> np.ndarray:
    try:
        vectors = np.asarray(column, dtype=np.float32)
    except (TypeError, ValueError):  # lists of different lengths, or not numbers
        vectors = np.array([], dtype=np.float32)
    if vectors.size == 0 or vectors.shape[1:2] != (2,) or vectors.ndim != 3 or not np.isfinite(vectors).all():
        raise ValueError(
            f"Column `embeddings`: expected finite numbers of the shape (n, 2, dim), found {kind(column)}. Make the column "
            "with `pairs.map(embed_responses, batched=True)` from `chosen` and `rejected`, without a column `responses`."
        )
    return vectors


def _distance(cosine: float) -> float:
    return float(np.clip(1 - cosine, 0, 2))


def _distinct(texts: list[str], longest: int = 3) -> list[float]:
    """The number of distinct n-grams divided by the number of n-grams, for n from 1 to `longest`."""
    numbers: dict[str, int] = {}
    tokens = [[numbers.setdefault(token, len(numbers)) for token in TOKEN.findall(text.lower())] for text in texts]
    words = np.array([word for text in tokens for word in text], dtype=np.int64)  # (n_words,)
    text_of = np.repeat(np.arange(len(texts)), [len(text) for text in tokens])
    shares, grams = [], words
    for n in range(1, longest + 1):
        within = text_of[n - 1 :] == text_of[: len(text_of) - n + 1]
        shares.append(len(np.unique(grams[within])) / max(int(within.sum()), 1))
        # An n-gram and the word after it, as one number.
        grams = np.unique(grams[:-1] * len(numbers) + words[n:], return_inverse=True)[1]
    return shares

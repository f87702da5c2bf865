"""From vectors to cosines: the responses of each prompt compared with one another."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from .candidates import Candidates, is_untouched
from .embedding import encode
from .policies import Eligible


# Prompts are compared in slices whose embeddings hold at most this many numbers (32 MB in float64).
MAX_NUMBERS = 1 << 22


class Vectors(NamedTuple):
    """Embeddings of a batch, `(n, dim)`, and for each row where those of its eligible responses stand in it."""

    array: np.ndarray
    where: list[np.ndarray]


def read_vectors(batch: Any, candidates: Candidates, eligible: list[Eligible]) -> Vectors:
    """The column `embeddings`, from its Arrow memory where the batch has it."""
    if is_untouched(batch, "embeddings"):
        counts, array = vectors_from_arrow(batch.pa_table["embeddings"].combine_chunks())
    else:
        counts, array = _vectors_from_lists(batch["embeddings"])
    array = array.astype(np.float32, copy=False)
    for r, (count, responses) in enumerate(zip(counts, candidates.responses, strict=True)):
        if count != len(responses) and eligible[r].reason is None:
            raise ValueError(
                f"Column `embeddings`, row {r} of the batch: found {count} vectors for {len(responses)} responses. Make "
                "the column with `embed_responses` from the same responses."
            )
    if not np.isfinite(array).all():
        raise ValueError("Column `embeddings`: found NaN or infinity. Make the column with `embed_responses`.")
    starts = np.cumsum(counts) - counts
    return Vectors(array, [start + np.array(row.positions) for start, row in zip(starts, eligible, strict=True)])


def vectors_from_arrow(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Vectors a row, and all vectors `(n, dim)`, of a nested list column of any kind, without Python objects."""
    if isinstance(column, pa.ExtensionArray):  # `datasets.Array2D`
        column = column.storage
    if pa.types.is_null(column.type):
        return np.zeros(len(column), dtype=np.int64), np.zeros((0, 1), dtype=np.float32)
    found, depth = column.type, 0
    while _is_list(found):
        found, depth = found.value_type, depth + 1
    if depth != 2 or not (pa.types.is_floating(found) or pa.types.is_integer(found)):
        raise _no_vectors(f"the type {column.type}")
    counts = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    vectors = column.flatten()
    dims = np.unique(vectors.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)).tolist()
    numbers = vectors.flatten()
    if len(dims) > 1 or dims == [0] or numbers.null_count:
        raise _no_vectors(f"vectors of the dims {dims} and {numbers.null_count} nulls")
    return counts, numbers.to_numpy(zero_copy_only=False).reshape(-1, dims[0] if dims else 1)


def _vectors_from_lists(column: Any) -> tuple[np.ndarray, np.ndarray]:
    try:
        rows = [np.asarray([] if row is None else row, dtype=np.float32) for row in column]
    except (TypeError, ValueError) as error:
        raise _no_vectors(f"something else ({error})") from error
    shapes = {row.shape for row in rows if row.shape != (0,)}
    if len({shape[1:] for shape in shapes}) > 1 or any(len(shape) != 2 or shape[1] == 0 for shape in shapes):
        raise _no_vectors(f"the shapes {sorted(shapes)}")
    dim = next((shape[1] for shape in shapes), 1)
    none = np.zeros((0, dim), dtype=np.float32)  # for a batch without rows
    counts = np.array([len(row) for row in rows], dtype=np.int64)
    return counts, np.concatenate([none, *(row.reshape(-1, dim) for row in rows)])


def _is_list(arrow_type: pa.DataType) -> bool:
    types = pa.types
    return types.is_list(arrow_type) or types.is_large_list(arrow_type) or types.is_fixed_size_list(arrow_type)


def _no_vectors(found: str) -> ValueError:
    return ValueError(
        f"Column `embeddings`: expected (n_responses, dim) numbers a row with one dim and no nulls, found {found}. Make "
        "the column with `embed_responses`."
    )


def embed_eligible(candidates: Candidates, eligible: list[Eligible], *embedder: Any) -> Vectors:
    """Embed the eligible responses of the prompts that have a pair."""
    texts: list[str] = []
    where = []
    for row, row_texts in zip(eligible, candidates.texts, strict=True):
        positions = row.positions if row.reason is None else []
        where.append(np.arange(len(texts), len(texts) + len(positions)))
        texts.extend(row_texts[position] for position in positions)
    if not texts:
        return Vectors(np.zeros((0, 1), dtype=np.float32), where)
    return Vectors(encode(texts, *embedder)[0], where)


@dataclass
class Group:
    """
    Prompts of a batch with the same number k of eligible responses.

    Attributes:
        rows (`list[int]`): Which rows of the batch.
        similarity (`np.ndarray` of shape `(n_rows, k, k)`): Cosines, NaN without embeddings.
        may_pair (`np.ndarray` of shape `(n_rows, k * (k - 1) / 2)`, bool): Which pairs may be labelled, in the order of
            `numpy.triu_indices(k, 1)`.
    """

    rows: list[int]
    similarity: np.ndarray
    may_pair: np.ndarray


def group_prompts(eligible: list[Eligible], vectors: Vectors | None, min_score_gap: float) -> Iterator[Group]:
    """Group the prompts that have a pair by their number of eligible responses, and compare these."""
    rows_by_k = defaultdict(list)
    for r, row in enumerate(eligible):
        if row.reason is None:
            rows_by_k[len(row.positions)].append(r)
    for k, all_rows in rows_by_k.items():
        step = max(1, MAX_NUMBERS // (k * (vectors.array.shape[1] if vectors else k)))
        for start in range(0, len(all_rows), step):
            rows = all_rows[start : start + step]
            similarity = np.full((len(rows), k, k), np.nan)
            if vectors is not None:
                similarity = _cosine(vectors.array[np.stack([vectors.where[r] for r in rows])])
            first, second = np.triu_indices(k, 1)
            may_pair = np.ones((len(rows), len(first)), dtype=bool)
            if eligible[rows[0]].scores:
                scores = np.array([eligible[r].scores for r in rows])  # (n, k)
                with np.errstate(invalid="ignore"):  # infinity minus infinity is a tie
                    may_pair = np.abs(scores[:, first] - scores[:, second]) > min_score_gap
            yield Group(rows, similarity, may_pair)


def _cosine(embeddings: np.ndarray) -> np.ndarray:
    """Cosines within each prompt, `(n, k, dim)` to `(n, k, k)` float64; those of a zero vector are zero."""
    embeddings = embeddings.astype(np.float64)
    norms = np.linalg.norm(embeddings, axis=2, keepdims=True)
    embeddings /= np.where(norms > 0, norms, 1.0)
    # Rounded, so that equal embeddings tie exactly wherever they stand in the product.
    return np.round(embeddings @ embeddings.transpose(0, 2, 1), 9)

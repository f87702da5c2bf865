"""From vectors to cosines: the responses of each prompt compared with one another."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset

from ..candidates.batch import Rows
from ..candidates.eligibility import Eligible
from ..config import EmbedderOptions
from ..core.columns import as_arrow, lengths, take
from ..core.messages import response_text
from ..embedding.embed import encode


# Prompts are compared in slices with at most this many cosines (32 MB), and multiplied in slices whose embeddings stay in
# the processor's cache (2 MB).
MAX_NUMBERS = 1 << 22
CACHED_NUMBERS = 1 << 18
# Pairs whose vectors are looked up at once.
PAIRS = 1000


class Vectors(NamedTuple):
    """Embeddings, `(n, dim)`, and for each of the m responses of a batch where its own stands among them, `(m,)`."""

    array: np.ndarray
    where: np.ndarray


def read_vectors(batch: Any, rows: Rows, eligible: Eligible) -> Vectors:
    """The column `embeddings`, from its Arrow memory where the batch has it."""
    column = as_arrow(batch, "embeddings")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which is looked for below
        counts, array = _vectors_from_lists(batch["embeddings"]) if column is None else vectors_from_arrow(column)
        array = array.astype(np.float32, copy=False)
    for r in np.flatnonzero(counts != rows.counts):
        if eligible.reasons[r] is None:
            raise ValueError(
                f"Column `embeddings`, row {r} of the batch: found {counts[r]} vectors for {rows.counts[r]} "
                "responses. Make the column with `embed_responses` from the same responses."
            )
    flat = array.ravel()
    # The sum of squares, which is quick, is finite unless a number is not or is beyond all measure.
    if not np.isfinite(flat @ flat) and not np.isfinite(flat).all():
        raise ValueError(
            "Column `embeddings`: found NaN, infinity or what float32 cannot hold. Make the column with `embed_responses`."
        )
    moved = np.cumsum(counts) - counts - rows.starts
    return Vectors(array, np.arange(rows.counts.sum()) + np.repeat(moved, rows.counts))


def vectors_from_arrow(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Vectors a row, and all vectors `(n, dim)`, of a nested list column of any kind, without Python objects."""
    if isinstance(column, pa.ExtensionArray):  # `datasets.Array2D`
        column = column.storage
    if pa.types.is_null(column.type):
        return np.zeros(len(column), dtype=np.int64), np.zeros((0, 1), dtype=np.float32)
    found, depth = column.type, 0
    while _is_list(found):
        found, depth = found.value_type, depth + 1
    if pa.types.is_null(found) and depth in (1, 2) and not column.flatten():  # rows without responses
        return lengths(column), np.zeros((0, 1), dtype=np.float32)
    if depth != 2 or not (pa.types.is_floating(found) or pa.types.is_integer(found)):
        raise _no_vectors(f"the type {column.type}")
    counts = lengths(column)
    vectors = column.flatten()
    dims = np.unique(lengths(vectors)).tolist()
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


def embed_eligible(rows: Rows, eligible: Eligible, options: EmbedderOptions, rank: int | None) -> Vectors:
    """Embed the eligible responses of the prompts that have a pair."""
    have_pair = np.repeat(np.array([reason is None for reason in eligible.reasons], dtype=bool), eligible.counts)
    positions = eligible.positions[have_pair]
    where = np.zeros(len(rows.texts), dtype=np.int64)
    where[positions] = np.arange(len(positions))
    if not len(positions):
        return Vectors(np.zeros((0, 1), dtype=np.float32), where)
    return Vectors(encode(take(rows.texts, positions), options, rank)[0], where)


@dataclass
class Group:
    """
    Prompts of a batch with the same number k of eligible responses.

    Attributes:
        rows (`np.ndarray` of shape `(n,)`): Which rows of the batch.
        positions (`np.ndarray` of shape `(n, k)`): Where their eligible responses stand in `Rows.responses`.
        similarity (`np.ndarray` of shape `(n, k, k)`): Cosines, NaN without embeddings.
        scores (`np.ndarray` of shape `(n, k)` or `None`): Scores, if there are any.
        may_pair (`np.ndarray` of shape `(n, k * (k - 1) / 2)`, bool): Which pairs may be labeled, in the order of
            `numpy.triu_indices(k, 1)`.
    """

    rows: np.ndarray
    positions: np.ndarray
    similarity: np.ndarray
    scores: np.ndarray | None
    may_pair: np.ndarray


def group_prompts(eligible: Eligible, vectors: Vectors | None, min_score_gap: float) -> Iterator[Group]:
    """Group the prompts that have a pair by their number of eligible responses, and compare these."""
    have_pair = np.array([reason is None for reason in eligible.reasons], dtype=bool)
    for k in np.unique(eligible.counts[have_pair]).tolist():
        all_rows = np.flatnonzero(have_pair & (eligible.counts == k))
        step = max(1, MAX_NUMBERS // (k * k))
        for start in range(0, len(all_rows), step):
            rows = all_rows[start : start + step]
            where = eligible.starts[rows][:, None] + np.arange(k)  # (n, k)
            positions = eligible.positions[where]
            similarity = np.full((len(rows), k, k), np.nan) if vectors is None else cosines(vectors, positions)
            first, second = np.triu_indices(k, 1)
            scores, may_pair = None, np.ones((len(rows), len(first)), dtype=bool)
            if eligible.scores is not None:
                scores = eligible.scores[where]
                with np.errstate(invalid="ignore", over="ignore"):  # infinity minus infinity is a tie
                    may_pair = np.abs(scores[:, first] - scores[:, second]) > min_score_gap
            yield Group(rows, positions, similarity, scores, may_pair)


def cosines(vectors: Vectors, positions: np.ndarray) -> np.ndarray:
    """
    Cosines between the responses at `positions`, `(n, k)`, of each prompt: `(n, k, k)` float64. Those of a zero vector are
    zero.
    """
    n, k = positions.shape
    similarity = np.empty((n, k, k))
    step = max(1, CACHED_NUMBERS // (k * vectors.array.shape[1]))
    for start in range(0, n, step):
        part = slice(start, start + step)
        embeddings = vectors.array[vectors.where[positions[part]]].astype(np.float64)  # (n_part, k, dim)
        products = embeddings @ embeddings.transpose(0, 2, 1)
        norms = np.sqrt(np.diagonal(products, axis1=1, axis2=2))  # (n_part, k)
        norms = np.where(norms > 0, norms, 1.0)
        similarity[part] = products / (norms[:, :, None] * norms[:, None])
    # Rounded, so that equal embeddings tie exactly wherever they stand in the product.
    return np.round(similarity, 9)


def pair_vectors(pairs: Dataset) -> np.ndarray:
    """
    The embeddings of both sides of each pair as unit vectors, `(n, 2, dim)` float64, those of a zero vector zero.

    The column `embeddings` has one a side, or one for each of the column `responses` that the sides were picked from. Of
    two responses, two vectors are taken for those of `responses`.
    """
    return np.concatenate(list(_pair_blocks(pairs)))


def pair_differences(pairs: Dataset) -> np.ndarray:
    """The first less the second of the vectors of [`pair_vectors`], `(n, dim)` float32, in a quarter of the memory."""
    return np.concatenate([(block[:, 0] - block[:, 1]).astype(np.float32) for block in _pair_blocks(pairs)])


def _pair_blocks(pairs: Dataset) -> Iterator[np.ndarray]:
    sides = [name for name in ("chosen", "rejected", "response_a", "response_b") if name in pairs.column_names]
    if len(sides) != 2 or "embeddings" not in pairs.column_names:
        raise ValueError(
            f"Pairs are compared by the column `embeddings`. Found: {pairs.column_names}. Keep `responses` and `embeddings` "
            "when you select, or embed both sides with `pairs.map(embed_responses, batched=True)`."
        )
    texts = pairs.select_columns([*sides, *({"responses"} & {*pairs.column_names})]).with_format(None)
    vectors = pairs.select_columns(["embeddings"]).with_format("arrow")
    for start in range(0, max(len(pairs), 1), PAIRS):
        rows = range(start, min(start + PAIRS, len(pairs)))
        counts, array = vectors_from_arrow(vectors[rows.start : rows.stop]["embeddings"].combine_chunks())
        if "responses" not in pairs.column_names and (counts == 2).all():  # the sides, in their order
            found = array.reshape(len(rows), 2, -1).astype(np.float64)
        else:
            positions = [
                _side_positions(texts[r], sides, count, r) for r, count in zip(rows, counts.tolist(), strict=True)
            ]
            found = array[(np.cumsum(counts) - counts)[:, None] + positions].astype(np.float64)
        yield found / np.maximum(np.linalg.norm(found, axis=2, keepdims=True), 1e-12)


def _side_positions(row: dict[str, Any], sides: list[str], count: int, r: int) -> list[int]:
    """Which of the `count` vectors of a pair are those of its sides."""
    first, second = (response_text(row[side] or "") for side in sides)
    responses = [response_text(response or "") for response in row.get("responses") or ()]
    picked = [responses.index(first), responses.index(second)] if {first, second} <= set(responses) else None
    if count == len(responses) and picked is not None:
        return picked
    if count != 2:
        raise ValueError(
            f"Column `embeddings`, row {r}: found {count} vectors, neither one a side nor one for each of `responses`. "
            "Embed both sides with `pairs.map(embed_responses, batched=True)`."
        )
    return [0, 1]

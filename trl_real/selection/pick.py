"""Pick the pairs of a batch: find the eligible responses, compare them, and pick and order the pairs."""

import hashlib
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from ..candidates.batch import Candidates, GivenPairs
from ..candidates.eligibility import Eligible, find_eligible
from ..config import SelectionConfig
from ..core.columns import column_blocks, take
from ..core.messages import is_list
from ..strategies import STRATEGIES, pick_pairs
from .measures import Measures
from .similarity import Group, Vectors, cosines, embed_eligible, group_prompts, read_vectors


# The most prompts and, unless a single prompt has more, the most pairs that are picked at once.
MAX_PROMPTS, MAX_PAIRS = 1000, 10_000


@dataclass
class Compared:
    """
    The rows of a batch with what is known of them before anything is picked.

    Attributes:
        rows ([`Candidates`] or [`GivenPairs`]): The rows.
        eligible ([`Eligible`]): Which responses may form a pair.
        vectors ([`Vectors`] or `None`): Their embeddings; `None` if there are none and the strategy looks at none.
    """

    rows: Candidates | GivenPairs
    eligible: Eligible
    vectors: Vectors | None


class Picks(NamedTuple):
    """
    Picked pairs, in the order of their rows and those of a row the best first.

    Attributes:
        rows (`np.ndarray` of shape `(n,)`): The row of the batch that each comes from.
        sides (`np.ndarray` of shape `(n, 2)`): Where both responses stand in `Rows.responses`, the one with the higher
            score first; -1 in a row that is kept without a pair.
        scores (`np.ndarray` of shape `(n, 2)`): The scores of both; NaN without scores.
        similarity (`np.ndarray` of shape `(n,)`): Their cosine; NaN without embeddings.
    """

    rows: np.ndarray
    sides: np.ndarray
    scores: np.ndarray
    similarity: np.ndarray


def check_scores(strategy: str, columns: Collection[str]) -> None:
    """Raise if a strategy needs scores to pick from `responses` and there are none."""
    if STRATEGIES[strategy].needs("scores") and not {"chosen", "scores"} & set(columns):
        without = [name for name, other in STRATEGIES.items() if not other.needs("scores")]
        raise ValueError(
            f"The strategy {strategy!r} needs the column `scores`, one number per response. Found: {sorted(columns)}. Add it, "
            f"or choose one of {without}."
        )


def batch_size(candidates: Dataset, pairs_per_prompt: int) -> int:
    """How many prompts to pick from at once: their pairs fit into memory together."""
    most = 1
    if pairs_per_prompt > 1 and "responses" in candidates.column_names and is_list(candidates.features["responses"]):
        blocks = column_blocks(candidates, "responses")
        most = max((pc.max(pc.list_value_length(block)).as_py() or 0 for block in blocks), default=0)
    return max(1, min(MAX_PROMPTS, MAX_PAIRS // max(1, min(pairs_per_prompt, math.comb(most, 2)))))


def compare(batch: Any, rows: Candidates | GivenPairs, config: SelectionConfig, rank: int | None = None) -> Compared:
    """Find what may form a pair, and read its vectors from the column `embeddings`, or embed it if the strategy asks."""
    eligible = find_eligible(rows, config.min_score_gap)
    vectors = None
    # The vectors of given pairs are those of both sides, not of the responses that they may have been picked from.
    if "embeddings" in batch and not (isinstance(rows, GivenPairs) and "responses" in batch):
        vectors = read_vectors(batch, rows, eligible)
    elif STRATEGIES[config.strategy].needs("similarity"):
        vectors = embed_eligible(rows, eligible, config.embedder_options, rank)
    return Compared(rows, eligible, vectors)


def pick(compared: Compared, config: SelectionConfig, measures: Measures | None = None) -> Picks:
    """Pick the pairs of each prompt, and measure all that could have been picked if there are `measures` to add to."""
    rows, eligible = compared.rows, compared.eligible
    if measures is not None:
        measures.add_rows(rows, eligible)
    if isinstance(rows, GivenPairs):
        return _take_given(rows, compared, measures)
    # A strategy that goes by the seed looks at no cosine: then only the picked pairs are compared, unless all are measured.
    by_seed = STRATEGIES[config.strategy].needs("seeds")
    vectors = None if by_seed and measures is None else compared.vectors
    lengths = None if measures is None else pc.utf8_length(rows.texts).to_numpy().astype(np.int64)
    parts = []
    for group in group_prompts(eligible, vectors, config.min_score_gap):
        seeds = _seeds(rows, group, config.selection_seed) if by_seed else None
        part = _pick_from(group, config, seeds)
        if by_seed and compared.vectors is not None:
            part = part._replace(similarity=cosines(compared.vectors, part.sides)[:, 0, 1])
        parts.append(part)
        if measures is not None and lengths is not None:
            measures.add_group(group, lengths)
    return in_order(parts)


def _pick_from(group: Group, config: SelectionConfig, seeds: np.ndarray | None) -> Picks:
    """The pairs that the strategy picks from some prompts, each with the higher score first."""
    options = config.strategy_kwargs if isinstance(config.strategy_kwargs, dict) else {}
    pairs = pick_pairs(
        config.strategy,
        group.similarity,
        group.may_pair,
        config.pairs_per_prompt,
        config.max_pairs_per_response,
        scores=group.scores,
        seeds=seeds,
        **options,
    )
    prompt, rank = np.nonzero(pairs >= 0)
    pair = np.column_stack(np.triu_indices(group.positions.shape[1], 1))[pairs[prompt, rank]]  # (n_picks, 2)
    scores = np.full(pair.shape, np.nan)
    if group.scores is not None:
        scores = group.scores[prompt[:, None], pair]
        turned = scores[:, 0] < scores[:, 1]
        pair[turned], scores[turned] = pair[turned, ::-1], scores[turned, ::-1]
    similarity = group.similarity[prompt, pair[:, 0], pair[:, 1]]
    return Picks(group.rows[prompt], group.positions[prompt[:, None], pair], scores, similarity)


def _take_given(rows: GivenPairs, compared: Compared, measures: Measures | None) -> Picks:
    """Given pairs are taken as they are, unless something is wrong with a row."""
    taken = np.flatnonzero([reason is None for reason in compared.eligible.reasons])
    sides = rows.starts[taken][:, None] + np.arange(2)
    similarity = np.full(len(taken), np.nan)
    if compared.vectors is not None and len(taken):
        similarity = cosines(compared.vectors, sides)[:, 0, 1]
    if measures is not None:
        lengths = pc.utf8_length(rows.texts).to_numpy().astype(np.int64)
        scores = None if rows.scores is None else rows.scores[sides]
        measures.add_pairs(similarity, lengths[sides], scores, labeled=True)
    return Picks(taken, sides, np.full(sides.shape, np.nan), similarity)


def in_order(parts: list[Picks]) -> Picks:
    """Picks together, in the order of their rows."""
    none = Picks(np.zeros(0, np.int64), np.zeros((0, 2), np.int64), np.zeros((0, 2)), np.zeros(0))
    rows, *others = (np.concatenate(arrays) for arrays in zip(none, *parts, strict=True))
    order = np.argsort(rows, kind="stable")
    return Picks(rows[order], *(array[order] for array in others))


def _seeds(rows: Candidates, group: Group, selection_seed: int) -> np.ndarray:
    """The seed of each prompt, `(n,)`: a hash of the texts of its responses, in their order, and of the seed of the selection."""
    k = group.positions.shape[1]
    texts = take(rows.texts, group.positions.ravel())
    return np.array(
        [seed_of(texts[start : start + k], selection_seed) for start in range(0, len(texts), k)], dtype=np.uint64
    )


def seed_of(texts: list[str], selection_seed: int) -> int:
    """A hash of texts and of the seed of the selection, 64 bits."""
    digest = hashlib.blake2b(str(selection_seed).encode(), digest_size=8)
    for text in texts:
        content = text.encode()
        digest.update(len(content).to_bytes(8, "little") + content)
    return int.from_bytes(digest.digest(), "little")

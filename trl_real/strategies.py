"""
Which pair of a prompt is worth a label.

A strategy is a pure function over n prompts that have the same number k of responses. It returns a cost for each pair,
`(n, k * (k - 1) / 2)` float64 in the order of `numpy.triu_indices(k, 1)`; [`pick_pairs`] takes the cheapest eligible
ones. Of the following it gets what it names:

* `similarity`: the cosines between the responses of each prompt, `(n, k, k)` float64;
* `scores`: their scores, `(n, k)` float64, higher is better;
* `seeds`: one seed a prompt, `(n,)` uint64;
* `k`, where there is nothing else to tell it.

The responses of a prompt come in code-point order of their texts, so that the earlier of two tied pairs is the same
whichever order the responses were listed in.

To add a strategy, write its function and give it a row in `STRATEGIES`.
"""

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .core.ordering import cheapest_first


# 2-means is solved by trying every split into two clusters up to here (2¹⁵ splits), by restarts above.
EXACT_2MEANS = 16
RESTARTS = 64
# Prompts are taken in slices, so that no array holds many more numbers than this.
MAX_COSTS = 1 << 20


def easy(similarity: np.ndarray) -> np.ndarray:
    """The least similar pair (REAL, arXiv 2409.17169)."""
    return _pairs(similarity)


def hard(similarity: np.ndarray) -> np.ndarray:
    """The most similar pair (REAL, arXiv 2409.17169)."""
    return -_pairs(similarity)


def random(seeds: np.ndarray, k: int) -> np.ndarray:
    """
    Any pair, each equally likely: one draw a pair from the prompt's seed, so that a pick depends on nothing else.

    The draw is splitmix64 (Steele, Lea and Flood, OOPSLA 2014).
    """
    steps = np.arange(1, k * (k - 1) // 2 + 1, dtype=np.uint64)
    z = seeds[:, None] + steps * np.uint64(0x9E3779B97F4A7C15)  # (n, n_pairs), wraps around
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))).astype(np.float64)


def centroid(similarity: np.ndarray) -> np.ndarray:
    """
    The responses nearest to the two 2-means centroids (REAL, arXiv 2409.17169): for a pair with one response in each
    cluster the sum of both squared Euclidean distances to their centroids, infinite for a pair within one cluster.
    """
    k = similarity.shape[1]
    solve, numbers = (_best_split, 2 ** (k - 1)) if k <= EXACT_2MEANS else (_search_split, RESTARTS * k)
    split = np.concatenate([solve(similarity[part]) for part in _slices(len(similarity), numbers)])  # (n, k) bool
    distance = np.where(split, *_distances(similarity, split[:, None])[:, :, 0])  # (n, k), to the own centroid
    i, j = np.triu_indices(k, 1)
    return np.where(split[:, i] != split[:, j], distance[:, i] + distance[:, j], np.inf)


def aepo(similarity: np.ndarray, *, lambda_: float = 1.0) -> np.ndarray:
    """
    Two responses that are like the others and unlike each other (AEPO, arXiv 2405.13541): the mean of their
    similarities to all other responses, less `lambda_` times their similarity. 0 is the two most central responses;
    the larger `lambda_`, the more it is `easy`.
    """
    i, j = np.triu_indices(similarity.shape[1], 1)
    central = _mean_similarity(similarity)
    return lambda_ * _pairs(similarity) - (central[:, i] + central[:, j]) / 2


def max_min(scores: np.ndarray) -> np.ndarray:
    """The best against the worst score (West-of-N, arXiv 2401.12086), of tied pairs the less similar one if it is known."""
    return -_gaps(scores)


def divpo(similarity: np.ndarray, scores: np.ndarray, *, threshold: float | None = None) -> np.ndarray:
    """
    The most diverse of the responses that score above `threshold` against the least diverse of those below it (DivPO,
    arXiv 2501.18101). A response is the more diverse the less similar it is to the others on average. By default the
    threshold of a prompt is midway between its lowest and its highest score.
    """
    i, j = np.triu_indices(scores.shape[1], 1)
    central = _mean_similarity(similarity)
    with np.errstate(invalid="ignore"):  # there is no middle to infinity
        middle = scores.min(1) / 2 + scores.max(1) / 2 if threshold is None else np.full(len(scores), threshold)
        side = np.nan_to_num(np.sign(scores - middle[:, None]))  # (n, k): above 1, below -1
    cost = side[:, i] * central[:, i] + side[:, j] * central[:, j]
    return np.where(side[:, i] * side[:, j] < 0, cost, np.inf)


def dissimilar_gap(similarity: np.ndarray, scores: np.ndarray, *, gap_weight: float = 0.5) -> np.ndarray:
    """
    A weighted sum of the cosine distance and of the score gap, as a share of the widest gap of the prompt: with a
    `gap_weight` of 0 it is `easy`, with 1 `max_min`.
    """
    gaps = _gaps(scores)
    widest = gaps.max(1, keepdims=True)
    share = np.divide(gaps, widest, out=np.ones_like(gaps), where=np.isfinite(gaps) & (widest > 0))
    return -((1 - gap_weight) * (1 - _pairs(similarity)) + gap_weight * share)


def _slices(n: int, numbers: int) -> list[slice]:
    """Slices of n prompts, each of which takes `numbers` numbers, that stay within `MAX_COSTS`."""
    step = max(1, MAX_COSTS // numbers)
    return [slice(start, start + step) for start in range(0, n, step)]


def _pairs(similarity: np.ndarray) -> np.ndarray:
    i, j = np.triu_indices(similarity.shape[1], 1)
    return similarity[:, i, j]


def _gaps(scores: np.ndarray) -> np.ndarray:
    i, j = np.triu_indices(scores.shape[1], 1)
    # Infinity minus infinity is a tie, which is never eligible; what is too large for a number is infinite.
    with np.errstate(invalid="ignore", over="ignore"):
        return np.abs(scores[:, i] - scores[:, j])


def _mean_similarity(similarity: np.ndarray) -> np.ndarray:
    """The mean cosine of each response with the others of its prompt, `(n, k)`."""
    k = similarity.shape[1]
    return (similarity.sum(2) - np.diagonal(similarity, axis1=1, axis2=2)) / (k - 1)


def _best_split(similarity: np.ndarray) -> np.ndarray:
    """
    The split into two clusters with the least within-cluster sum of squares, by trying all, `(n_prompts, k)`.

    With unit vectors that sum is k minus, for each cluster, the sum of its similarities (both orders and the diagonal)
    over its size.
    """
    splits, pairs_inside = _all_splits(similarity.shape[1])  # (n_splits, k), (n_pairs, n_splits)
    size = splits.sum(1)
    diagonal = np.diagonal(similarity, axis1=1, axis2=2)  # (n, k)
    total = similarity.sum((1, 2))[:, None]
    inside = 2 * _pairs(similarity) @ pairs_inside + diagonal @ splits.T  # (n, n_splits)
    outside = total - 2 * similarity.sum(2) @ splits.T + inside
    gain = inside / size + outside / (similarity.shape[1] - size)
    # Rounded, so that exactly tied splits go to the first one however many prompts share the matrix product.
    return splits[np.round(gain, 9).argmax(1)].astype(bool)


@functools.lru_cache(maxsize=EXACT_2MEANS)
def _all_splits(k: int) -> tuple[np.ndarray, np.ndarray]:
    """All splits of k into two non-empty clusters, and for each pair in which splits it lies in the first cluster."""
    splits = (np.arange(1, 2 ** (k - 1))[:, None] >> np.arange(k) & 1).astype(np.float64)  # the last one stays outside
    i, j = np.triu_indices(k, 1)
    return splits, np.ascontiguousarray((splits[:, i] * splits[:, j]).T)


def _search_split(similarity: np.ndarray) -> np.ndarray:
    """The best of `RESTARTS` runs of Lloyd's algorithm, each started from one of the least similar pairs, `(n, k)`."""
    n, k = similarity.shape[:2]
    i, j = np.triu_indices(k, 1)
    starts = np.argsort(_pairs(similarity), axis=1, kind="stable")[:, :RESTARTS]  # (n, R)
    prompt = np.arange(n)[:, None]
    split = similarity[prompt, i[starts]] > similarity[prompt, j[starts]]  # (n, R, k)
    split[prompt, np.arange(starts.shape[1]), i[starts]] = True
    split[prompt, np.arange(starts.shape[1]), j[starts]] = False
    while True:
        to_first, to_second = _distances(similarity, split)
        moved = to_first < to_second
        # A run stops when nothing moves, or when a cluster would be left empty.
        moved = np.where((moved.any(2) & ~moved.all(2))[..., None], moved, split)
        before = np.where(split, to_first, to_second).sum(2)  # (n, R)
        after = np.where(moved, *_distances(similarity, moved)).sum(2)
        better = after < before - 1e-12
        if not better.any():
            return split[np.arange(n), np.round(before, 9).argmin(1)]
        split = np.where(better[..., None], moved, split)


def _distances(similarity: np.ndarray, split: np.ndarray) -> np.ndarray:
    """Squared distances of the responses to both centroids of each split `(n, R, k)`, from cosines: `(2, n, R, k)`."""
    diagonal = np.diagonal(similarity, axis1=1, axis2=2)[:, None]  # (n, 1, k)
    distances = []
    for cluster in (split, ~split):
        weights = cluster / cluster.sum(2, keepdims=True)  # (n, R, k)
        to_members = weights @ similarity  # (n, R, k): <response, centroid>
        norm = (weights * to_members).sum(2, keepdims=True)  # |centroid|²
        distances.append(np.maximum(diagonal - 2 * to_members + norm, 0.0))
    return np.stack(distances)


@dataclass(frozen=True)
class Strategy:
    """
    A row of the table.

    Attributes:
        cost (`Callable`): The function above.
        order (`str`): Which pairs come first under a budget: `"least similar"`, `"most similar"`, `"widest gap"` of the
            scores, or `"random"`.
        options (`dict[str, tuple[float, float]]`): The lowest and the highest value of each number that it takes.
        tolerance (`float`): Costs within this of the least are a tie, which goes to the less similar pair.
    """

    cost: Callable[..., np.ndarray]
    order: str = "least similar"
    options: dict[str, tuple[float, float]] = field(default_factory=dict)
    tolerance: float = 0.0

    def needs(self, name: str) -> bool:
        """Whether the strategy looks at the `"similarity"`, `"scores"` or `"seeds"` of a prompt."""
        return name in inspect.signature(self.cost).parameters


# Sums of the same cosines in another order differ in their last digits.
ROUNDING = 1e-9
STRATEGIES = {
    "easy": Strategy(easy),
    "hard": Strategy(hard, order="most similar"),
    # A response is its own centroid in a cluster of one and equally far from it in a cluster of two: many exact ties.
    "centroid": Strategy(centroid, tolerance=1e-6),
    "random": Strategy(random, order="random"),
    "aepo": Strategy(aepo, options={"lambda_": (0, math.inf)}, tolerance=ROUNDING),
    "max_min": Strategy(max_min, order="widest gap"),
    "divpo": Strategy(divpo, options={"threshold": (-math.inf, math.inf)}, tolerance=ROUNDING),
    "dissimilar_gap": Strategy(dissimilar_gap, options={"gap_weight": (0, 1)}, tolerance=ROUNDING),
}


def check_strategy(strategy: str, strategy_kwargs: dict[str, Any] | None = None, name: str = "strategy") -> None:
    """Raise unless `strategy`, the value of the option `name`, is known and takes `strategy_kwargs`."""
    if not isinstance(strategy, str) or strategy not in STRATEGIES:
        raise ValueError(f"`{name}` must be one of {list(STRATEGIES)}, got {strategy!r}.")
    options = STRATEGIES[strategy].options
    unknown = sorted(set(strategy_kwargs or {}) - set(options))
    if unknown:
        raise ValueError(
            f"`strategy_kwargs` for strategy {strategy!r} may hold {list(options) or 'nothing'}, got {unknown}. Remove "
            "them, or choose the strategy that they belong to."
        )
    for option, value in (strategy_kwargs or {}).items():
        low, high = options[option]
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not low <= value <= high
            or math.isinf(value)
        ):
            raise ValueError(
                f"`strategy_kwargs[{option!r}]` must be a number from {low} to {high}, got {value!r}. Leave it out for the "
                "default."
            )


def pick_pairs(
    strategy: str,
    similarity: np.ndarray,
    eligible: np.ndarray,
    pairs_per_prompt: int = 1,
    scores: np.ndarray | None = None,
    seeds: np.ndarray | None = None,
    **strategy_kwargs: Any,
) -> np.ndarray:
    """
    Pick the cheapest eligible pairs of each prompt.

    Args:
        strategy (`str`):
            Name in `STRATEGIES`.
        similarity (`np.ndarray` of shape `(n, k, k)`):
            Cosines between the responses of a prompt; NaN where there are no embeddings.
        eligible (`np.ndarray` of shape `(n, n_pairs)`, bool):
            Which pairs may be picked, in the order of `numpy.triu_indices(k, 1)`.
        pairs_per_prompt (`int`, *optional*, defaults to `1`):
            How many to pick, at most.
        scores (`np.ndarray` of shape `(n, k)`, *optional*):
            Scores of the responses, for a strategy that needs them.
        seeds (`np.ndarray` of shape `(n,)`, uint64, *optional*):
            One seed a prompt, for a strategy that needs them.
        strategy_kwargs:
            Keyword arguments of the strategy.

    Returns:
        `np.ndarray` of shape `(n, min(pairs_per_prompt, n_pairs))`: indices of pairs, the best first, -1 where
        no eligible pair is left.
    """
    n, k = similarity.shape[:2]
    n_pairs = eligible.shape[1]
    picks = np.full((n, min(pairs_per_prompt, n_pairs)), -1)
    row = STRATEGIES[strategy]
    inputs: dict[str, Any] = {"similarity": similarity, "scores": scores, "seeds": seeds}
    for part in _slices(n, n_pairs):
        needed: dict[str, Any] = {name: array[part] for name, array in inputs.items() if row.needs(name)}
        if row.needs("k"):
            needed["k"] = k
        cost = np.where(eligible[part], row.cost(**needed, **strategy_kwargs), np.inf)
        closeness = np.nan_to_num(_pairs(similarity[part]))
        picks[part] = cheapest_first(cost, closeness, row.tolerance, picks.shape[1])
    return picks

"""
Strategies: which pair of each prompt is worth a label.

A strategy is a pure function of n prompts that have the same number k of responses. It returns a cost for each pair,
`(n, k * (k - 1) / 2)` float64 in the order of `numpy.triu_indices(k, 1)`. [`pick_pairs`] takes the cheapest eligible pairs.
A strategy receives the inputs that it names as parameters:

* `similarity`: the cosines between the responses of each prompt, `(n, k, k)` float64;
* `scores`: the scores of the responses, `(n, k)` float64, higher is better;
* `seeds`: one seed per prompt, `(n,)` uint64;
* `k`: the number of responses, for strategies that get neither similarity nor scores.

The responses of a prompt are sorted by the code points of their texts. The earlier of two tied pairs is therefore the same
for any order of the responses in the dataset.

To add a strategy, write its function and add a row to `STRATEGIES`.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .core.ordering import cheapest_first
from .core.two_means import distances, n_splits, two_means


# Prompts are processed in slices, to keep the number of values in one array close to this limit.
MAX_COSTS = 1 << 20


def easy(similarity: np.ndarray) -> np.ndarray:
    """The least similar pair (REAL, arXiv 2409.17169)."""
    return _pairs(similarity)


def hard(similarity: np.ndarray) -> np.ndarray:
    """The most similar pair (REAL, arXiv 2409.17169)."""
    return -_pairs(similarity)


def random(seeds: np.ndarray, k: int) -> np.ndarray:
    """
    A random pair, each equally likely. Each pair gets one draw from the seed of the prompt, so a pick depends only on it.

    The generator is splitmix64 (Steele, Lea and Flood, OOPSLA 2014).
    """
    steps = np.arange(1, k * (k - 1) // 2 + 1, dtype=np.uint64)
    z = seeds[:, None] + steps * np.uint64(0x9E3779B97F4A7C15)  # (n, n_pairs), wraps around
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))).astype(np.float64)


def centroid(similarity: np.ndarray) -> np.ndarray:
    """
    The responses nearest to the two 2-means centroids (REAL, arXiv 2409.17169).

    A pair with one response in each cluster costs the sum of the squared Euclidean distances of both responses to their
    centroids. A pair within one cluster has an infinite cost.
    """
    k = similarity.shape[1]
    split = np.concatenate(
        [two_means(similarity[part]) for part in _slices(len(similarity), n_splits(k))]
    )  # (n, k) bool
    distance = np.where(split, *distances(similarity, split[:, None])[:, :, 0])  # (n, k), to its own centroid
    i, j = np.triu_indices(k, 1)
    return np.where(split[:, i] != split[:, j], distance[:, i] + distance[:, j], np.inf)


def aepo(similarity: np.ndarray, *, lambda_: float = 1.0) -> np.ndarray:
    """
    Two responses that are similar to the others but not to each other (AEPO, arXiv 2405.13541).

    The strategy maximizes the mean similarity of the two responses to all other responses, minus `lambda_` times the
    similarity of the pair. With 0 it picks the two most central responses. The larger `lambda_`, the closer it is to
    `easy`.
    """
    i, j = np.triu_indices(similarity.shape[1], 1)
    central = _mean_similarity(similarity)
    return lambda_ * _pairs(similarity) - (central[:, i] + central[:, j]) / 2


def max_min(scores: np.ndarray) -> np.ndarray:
    """
    The response with the best score and the one with the worst (West-of-N, arXiv 2401.12086). Among tied pairs, the less
    similar one if similarities are known.
    """
    return -_gaps(scores)


def divpo(similarity: np.ndarray, scores: np.ndarray, *, threshold: float | None = None) -> np.ndarray:
    """
    The most diverse response that scores above `threshold` and the least diverse one that scores below it (DivPO, arXiv
    2501.18101).

    A response is more diverse if it is less similar to the others on average. By default, the threshold of a prompt is
    midway between its lowest and its highest score.
    """
    i, j = np.triu_indices(scores.shape[1], 1)
    central = _mean_similarity(similarity)
    with np.errstate(invalid="ignore"):  # infinite scores have no midpoint
        middle = scores.min(1) / 2 + scores.max(1) / 2 if threshold is None else np.full(len(scores), threshold)
        side = np.nan_to_num(np.sign(scores - middle[:, None]))  # (n, k): above 1, below -1
    cost = side[:, i] * central[:, i] + side[:, j] * central[:, j]
    return np.where(side[:, i] * side[:, j] < 0, cost, np.inf)


def dissimilar_gap(similarity: np.ndarray, scores: np.ndarray, *, gap_weight: float = 0.5) -> np.ndarray:
    """
    The pair with the largest weighted sum of cosine distance and score gap, where the gap is a share of the widest gap of
    the prompt. A `gap_weight` of 0 gives `easy`, and 1 gives `max_min`.
    """
    gaps = _gaps(scores)
    widest = gaps.max(1, keepdims=True)
    share = np.divide(gaps, widest, out=np.ones_like(gaps), where=np.isfinite(gaps) & (widest > 0))
    return -((1 - gap_weight) * (1 - _pairs(similarity)) + gap_weight * share)


def chain(scores: np.ndarray) -> np.ndarray:
    """
    Two neighbors in the ranking of the responses by score. With as many pairs per prompt as possible, the pairs form a chain: a > b > c
    gives (a, b) and (b, c). Pairs with the widest gap come first. Of several responses with the same score, only the first takes part.
    """
    prompt = np.arange(len(scores))[:, None]
    order = np.argsort(scores, axis=1, kind="stable")  # (n, k)
    ranked = scores[prompt, order]
    new = np.ones(scores.shape, dtype=bool)  # the first response of each score
    new[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    place = np.empty(scores.shape)
    place[prompt, order] = np.where(new, new.cumsum(1), np.nan)
    i, j = np.triu_indices(scores.shape[1], 1)
    return np.where(np.abs(place[:, i] - place[:, j]) == 1, -_gaps(scores), np.inf)


def _slices(n: int, numbers: int) -> list[slice]:
    """Slices of n prompts that stay within `MAX_COSTS`, given that each prompt takes `numbers` values."""
    step = max(1, MAX_COSTS // numbers)
    return [slice(start, start + step) for start in range(0, n, step)]


def _pairs(similarity: np.ndarray) -> np.ndarray:
    i, j = np.triu_indices(similarity.shape[1], 1)
    return similarity[:, i, j]


def _gaps(scores: np.ndarray) -> np.ndarray:
    i, j = np.triu_indices(scores.shape[1], 1)
    # Infinity minus infinity is a tie, and ties are never eligible. A difference that is too large becomes infinite.
    with np.errstate(invalid="ignore", over="ignore"):
        return np.abs(scores[:, i] - scores[:, j])


def _mean_similarity(similarity: np.ndarray) -> np.ndarray:
    """The mean cosine of each response with the other responses of its prompt, `(n, k)`."""
    k = similarity.shape[1]
    return (similarity.sum(2) - np.diagonal(similarity, axis1=1, axis2=2)) / (k - 1)


@dataclass(frozen=True)
class Strategy:
    """
    A row of `STRATEGIES`.

    Attributes:
        cost (`Callable`): The function that computes the costs.
        order (`str`): Which pairs come first under a budget: `"least similar"`, `"most similar"`, `"widest gap"` of the
            scores, or `"random"`.
        options (`dict[str, tuple[float, float]]`): The options of the function, with their lowest and highest values.
        tolerance (`float`): Costs within this distance of the lowest cost are ties. The less similar pair wins a tie.
    """

    cost: Callable[..., np.ndarray]
    order: str = "least similar"
    options: dict[str, tuple[float, float]] = field(default_factory=dict)
    tolerance: float = 0.0

    def needs(self, name: str) -> bool:
        """Whether the strategy uses the input `name`: `"similarity"`, `"scores"` or `"seeds"`."""
        return name in inspect.signature(self.cost).parameters


# Sums of the same cosines in a different order differ in their last digits.
ROUNDING = 1e-9
STRATEGIES = {
    "easy": Strategy(easy),
    "hard": Strategy(hard, order="most similar"),
    # In a cluster of one the response is the centroid; in a cluster of two both are equally far from it: many exact ties.
    "centroid": Strategy(centroid, tolerance=1e-6),
    "random": Strategy(random, order="random"),
    "aepo": Strategy(aepo, options={"lambda_": (0, math.inf)}, tolerance=ROUNDING),
    "max_min": Strategy(max_min, order="widest gap"),
    "divpo": Strategy(divpo, options={"threshold": (-math.inf, math.inf)}, tolerance=ROUNDING),
    "dissimilar_gap": Strategy(dissimilar_gap, options={"gap_weight": (0, 1)}, tolerance=ROUNDING),
    "chain": Strategy(chain, order="widest gap"),
}


def check_strategy(strategy: str, strategy_kwargs: dict[str, Any] | None = None, name: str = "strategy") -> None:
    """Raise unless `strategy`, the value of the option `name`, is known and accepts `strategy_kwargs`."""
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
    max_pairs_per_response: int | None = None,
    scores: np.ndarray | None = None,
    seeds: np.ndarray | None = None,
    **strategy_kwargs: Any,
) -> np.ndarray:
    """
    Pick the cheapest eligible pairs of each prompt.

    Args:
        strategy (`str`):
            A name in `STRATEGIES`.
        similarity (`np.ndarray` of shape `(n, k, k)`):
            Cosines between the responses of each prompt; NaN without embeddings.
        eligible (`np.ndarray` of shape `(n, n_pairs)`, bool):
            Which pairs may be picked, in the order of `numpy.triu_indices(k, 1)`.
        pairs_per_prompt (`int`, *optional*, defaults to `1`):
            The maximum number of pairs to pick.
        max_pairs_per_response (`int`, *optional*):
            The maximum number of these pairs that have the same response. Cheaper pairs are picked first.
        scores (`np.ndarray` of shape `(n, k)`, *optional*):
            Scores of the responses, for a strategy that needs them.
        seeds (`np.ndarray` of shape `(n,)`, uint64, *optional*):
            One seed per prompt, for a strategy that needs them.
        strategy_kwargs:
            Keyword arguments for the strategy.

    Returns:
        `np.ndarray` of shape `(n, min(pairs_per_prompt, n_pairs))`: Indices of pairs, best first, or -1 if no eligible
        pair is left.
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
        if max_pairs_per_response is None:
            picks[part] = cheapest_first(cost, closeness, row.tolerance, picks.shape[1])
        else:
            order = cheapest_first(cost, closeness, row.tolerance, n_pairs)
            picks[part] = _limited(order, k, max_pairs_per_response, picks.shape[1])
    return picks


def _limited(order: np.ndarray, k: int, limit: int, most: int) -> np.ndarray:
    """
    The first pairs in an order, without those of a response that is already in `limit` of them.

    Args:
        order (`np.ndarray` of shape `(n, n_pairs)`): Indices of pairs, -1 for none.
        k (`int`): The number of responses.
        limit (`int`): The maximum number of pairs with the same response.
        most (`int`): The maximum number of pairs of a prompt.

    Returns:
        `np.ndarray` of shape `(n, most)`: Indices of pairs, or -1 if no pair is left.
    """
    sides = np.column_stack(np.triu_indices(k, 1))
    picks = np.full((len(order), most), -1)
    used, count = np.zeros((len(order), k), dtype=np.int64), np.zeros(len(order), dtype=np.int64)
    for pair in order.T:
        open_ = np.flatnonzero((pair >= 0) & (count < most))
        if not len(open_):
            break
        free = open_[(used[open_[:, None], sides[pair[open_]]] < limit).all(1)]
        picks[free, count[free]] = pair[free]
        used[free[:, None], sides[pair[free]]] += 1
        count[free] += 1
    return picks

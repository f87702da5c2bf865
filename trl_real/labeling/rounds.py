"""Label in rounds: choose the pairs to label next."""

from collections.abc import Callable
from typing import Any

import numpy as np
from datasets import Dataset, Value
from scipy.special import entr, expit

from ..config import SelectionConfig
from ..core.checks import check_count, check_number, check_seed
from .annotators import least_certain
from .pool import Pool
from .preference_model import NODES, WEIGHTS, PreferenceModel, fit, without_labels


# Number of pairs whose gain is updated at once.
BLOCK = 128


def next_pairs(
    pairs: Dataset,
    labels: Any = None,
    n: int = 50,
    strategy: str = "random",
    audit: float = 0.2,
    seed: int = 0,
    *,
    labels_per_pair: int = 1,
    second_opinions: float = 0.0,
    embedder: Any = SelectionConfig.embedder,
    embedder_max_length: int | None = SelectionConfig.embedder_max_length,
    embedder_batch_size: int = SelectionConfig.embedder_batch_size,
    embedder_dtype: str = SelectionConfig.embedder_dtype,
) -> Dataset:
    r"""
    Return the pairs to label next.

    The function is stateless: the result depends only on the pairs, the decisions so far and the options. Call it again after
    any number of labels from any tool.

    A share of the pairs is always sampled randomly. [`label_progress`] evaluates on these pairs, because pairs that a strategy
    picks are a biased sample.

    Args:
        pairs ([`~datasets.Dataset`]):
            Unlabeled pairs, as [`real_select`] picks them from responses without scores.
        labels (`str`, `Path`, `dict` or `list`, *optional*):
            The labels so far, in any format that [`apply_labels`] accepts. A skipped or tied pair counts as labeled.
        n (`int`, *optional*, defaults to `50`):
            Number of pairs to label next.
        strategy (`str`, *optional*, defaults to `"random"`):
            How to pick the rest of the pairs. In our study, no strategy was better than `"random"`.

            - `"random"`: a random sample.
            - `"easy"`: the least similar pairs.
            - `"d_optimal"`: the pairs that tell most about the weights of a linear preference model.
            - `"bald"`: the pairs whose label that model cannot predict because it is uncertain about its weights.

            `"d_optimal"` and `"bald"` take the labels so far and the pairs already picked for this round into account.
        audit (`float`, *optional*, defaults to `0.2`):
            The share of pairs to sample randomly, above 0. At least one pair is sampled.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the random order of all pairs. Use the same seed in every round.
        labels_per_pair (`int`, *optional*, defaults to `1`):
            Number of annotators per pair.
        second_opinions (`float`, *optional*, defaults to `0.0`):
            The share of the round that asks for another label of a labeled pair. These are the pairs with the least certain
            label, as estimated by `aggregate="dawid_skene"` of [`apply_labels`]. If too few unlabeled pairs are left, the rest of
            the round consists of such pairs.
        embedder, embedder_max_length, embedder_batch_size, embedder_dtype (*optional*):
            As in [`embed_responses`]. Ignored with `"random"`, or if there is a column `embeddings` with one vector per side.

    Returns:
        [`~datasets.Dataset`]: At most `n` rows of `pairs` with a column `reason`: `"audit"` for randomly sampled pairs,
        `"explore"` for pairs picked by their embeddings only, `"uncertain"` for pairs picked by a model of the labels, and
        `"second_opinion"` for labeled pairs whose label is uncertain.

    Raises:
        `TypeError`: If `pairs` is not a [`~datasets.Dataset`].
        `ValueError`: If a column is missing, an option is not valid, or the labels do not belong to the pairs.

    Example:

    ```python
    >>> from trl_real import load_sample, next_pairs, real_select

    >>> candidates = load_sample().remove_columns("scores")
    >>> pairs = candidates.map(real_select, batched=True, remove_columns=["responses"])
    >>> first = next_pairs(pairs, n=2)
    >>> second = next_pairs(pairs, dict.fromkeys(first["pair_id"], "a"), n=2)
    >>> second["reason"][:], set(first["pair_id"]) & set(second["pair_id"])
    (['audit', 'audit'], set())
    ```
    """
    check_count("n", n)
    check_round_strategy(strategy)
    check_audit(audit)
    check_seed("seed", seed)
    check_count("labels_per_pair", labels_per_pair)
    check_number("second_opinions", second_opinions, 0, 1)
    config = SelectionConfig(
        embedder=embedder,
        embedder_max_length=embedder_max_length,
        embedder_batch_size=embedder_batch_size,
        embedder_dtype=embedder_dtype,
    )
    pool = Pool.of(pairs, labels, seed, config.embedder_options)
    again = least_certain(pool.records) if second_opinions else pool.decided[:0]
    again = again[~pool.is_open(labels_per_pair)[again]]  # the others get their labels anyway
    n_again = min(round(second_opinions * n), n - 1, len(again))
    drawn, picked, reason = pick_round(pool, n - n_again, strategy, audit, labels_per_pair)
    again = again[: n - len(drawn) - len(picked)]
    chosen = pool.pairs.select(pool.rows[np.concatenate([drawn, picked, again])])
    if "reason" in chosen.column_names:
        chosen = chosen.remove_columns("reason")
    reasons = ["audit"] * len(drawn) + [reason] * len(picked) + ["second_opinion"] * len(again)
    return chosen.add_column("reason", reasons, feature=Value("string"))


def check_round_strategy(strategy: object) -> None:
    """Raise unless `strategy` is a strategy of [`next_pairs`]."""
    if strategy != "random" and strategy not in PICKS:
        raise ValueError(f"`strategy` must be one of {['random', *PICKS]}, got {strategy!r}.")


def check_audit(audit: object) -> None:
    """Raise unless `audit` is a share above 0."""
    check_number("audit", audit, 0, 1)
    if not audit:
        raise ValueError(
            f"`audit` must be above 0, got {audit!r}: without randomly sampled pairs the progress cannot be estimated."
        )


def drawn_at_random(pool: Pool, labeled: np.ndarray, strategy: str) -> np.ndarray:
    """
    The labeled pairs that are a random sample. If `strategy` is `"random"`, these are all labeled pairs. Otherwise, these are
    the pairs before the first pair without a decision, whatever the reason they were labeled for.
    """
    if strategy == "random":
        return labeled
    undecided = np.flatnonzero(pool.is_open())
    return labeled[labeled < (undecided[0] if len(undecided) else len(pool.rows))]


def pick_round(
    pool: Pool, n: int, strategy: str, audit: float, labels_per_pair: int = 1
) -> tuple[np.ndarray, np.ndarray, str]:
    """The next round: its randomly sampled pairs, the pairs that the strategy picks, and the reason for the latter."""
    is_open = np.flatnonzero(pool.is_open(labels_per_pair))
    n_drawn = n if strategy == "random" else max(1, round(audit * n))
    drawn, others = is_open[:n_drawn], is_open[n_drawn:]
    n_picked = min(n - n_drawn, len(others))
    if n_picked <= 0:
        return drawn, others[:0], ""
    share, count = pool.votes(pool.decided)
    labeled = pool.decided[count > 0]
    difference = pool.difference
    if len(labeled):
        model = fit(difference[labeled].astype(np.float64), share[count > 0], count[count > 0])
    else:
        model = without_labels(difference.shape[1])
    picked = others[PICKS[strategy](model, difference[others], n_picked)]
    return drawn, picked, "uncertain" if len(labeled) and strategy != "easy" else "explore"


def least_similar(model: PreferenceModel, difference: np.ndarray, n: int) -> np.ndarray:
    """The pairs with the largest distance between their sides."""
    return np.argsort(-np.einsum("ij,ij->i", difference, difference), kind="stable")[:n]


def most_gain(
    gain: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Callable[[PreferenceModel, np.ndarray, int], np.ndarray]:
    """
    Pick pairs one by one. Each has the largest gain, given that the pairs picked before it will be labeled.

    A gain is a function of the log-odds of pairs and of their variances. A future label reduces the variances regardless of its
    value, so gains only fall. The gain of a pair is therefore updated only if its last value is among the largest (Minoux's lazy
    greedy algorithm).
    """

    def pick(model: PreferenceModel, difference: np.ndarray, n: int) -> np.ndarray:
        logits, covariance = model.logits(difference), model.covariance.astype(difference.dtype)
        most = gain(logits, model.variances(difference))
        picked: list[int] = []
        while len(picked) < n:
            block = np.argpartition(-most, min(BLOCK, len(most)) - 1)[:BLOCK]
            block = np.sort(block[most[block] > -np.inf])
            vectors = difference[block]
            moved = vectors @ covariance
            variances = np.einsum("ij,ij->i", moved, vectors)
            most[block] = gain(logits[block], variances)
            best = int(most[block].argmax())
            if most[block[best]] < most.max():
                continue
            picked.append(int(block[best]))
            most[block[best]] = -np.inf
            information = expit(logits[block[best]]) * expit(-logits[block[best]])
            covariance -= np.outer(moved[best], moved[best]) * information / (1 + information * variances[best])
        return np.array(picked)

    return pick


def d_optimal(logits: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """How much a label shrinks the volume of the likely weights: D-optimal design (cf. arXiv 2502.04354)."""
    return np.log1p(expit(logits) * expit(-logits) * variances)


def bald(logits: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """The mutual information of a label and the weights (BALD, arXiv 1112.5745)."""
    spread = np.sqrt(np.maximum(variances, 0.0))
    chances = expit(logits[:, None] + spread[:, None] * NODES.astype(logits.dtype))  # (n_pairs, n_nodes)
    mean, known = chances @ WEIGHTS, (entr(chances) + entr(1 - chances)) @ WEIGHTS
    return entr(mean) + entr(1 - mean) - known


# To add a strategy, add a function of a model, the differences of pairs `(n_pairs, dim)` and a number n. It returns the indices of
# n pairs, best first.
PICKS: dict[str, Callable[[PreferenceModel, np.ndarray, int], np.ndarray]] = {
    "easy": least_similar,
    "d_optimal": most_gain(d_optimal),
    "bald": most_gain(bald),
}

"""Labels in rounds: which pairs are labeled next."""

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


# Pairs whose gain is looked at anew at once.
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
    The pairs to label next.

    Nothing is kept between calls: the answer depends on the pairs, on what has been decided about them, and on the options. Call it
    again after any number of labels, whatever tool they come from.

    A share of the pairs is always drawn at random. [`label_progress`] judges by these, since pairs that a strategy picks
    are no fair sample.

    Args:
        pairs ([`~datasets.Dataset`]):
            Unlabeled pairs, as [`real_select`] picks them from responses without scores.
        labels (`str`, `Path`, `dict` or `list`, *optional*):
            The labels so far, as [`apply_labels`] takes them. A pair that was skipped or tied counts as labeled.
        n (`int`, *optional*, defaults to `50`):
            How many pairs to label next.
        strategy (`str`, *optional*, defaults to `"random"`):
            How the other pairs are picked: `"random"` draws them; `"easy"` takes the least similar ones; `"d_optimal"` those
            that tell most about the weights of a linear preference model, and `"bald"` those whose label it cannot foresee
            because it is unsure of its weights, both given the labels so far and the pairs picked before. In our study
            none was better than `"random"`.
        audit (`float`, *optional*, defaults to `0.2`):
            The share that is drawn at random, above 0; at least one pair.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the random order of all pairs. Keep it from round to round.
        labels_per_pair (`int`, *optional*, defaults to `1`):
            How many annotators decide about each pair.
        second_opinions (`float`, *optional*, defaults to `0.0`):
            The share of the round that has a label already and gets one more, from another annotator: the pairs whose label is
            least certain, as `aggregate="dawid_skene"` of [`apply_labels`] sees it. If there are not enough other pairs, the
            round is filled up with these. 0 for none; in our study a new pair was worth more than a second opinion.
        embedder, embedder_max_length, embedder_batch_size, embedder_dtype (*optional*):
            As in [`embed_responses`]. Unused by `"random"`, or if there is a column `embeddings` with one vector a side.

    Returns:
        [`~datasets.Dataset`]: At most `n` rows of `pairs` and why each is there as `reason`: `"audit"` if it was drawn at random,
        `"explore"` if it was picked by the embeddings alone, `"uncertain"` if it was picked by a model of the labels,
        `"second_opinion"` if its label is not certain.

    Raises:
        `TypeError`: If `pairs` is no [`~datasets.Dataset`].
        `ValueError`: If a column is missing, an option is not valid, or the labels are not those of the pairs.

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
    """Raise unless `strategy` is one of [`next_pairs`]."""
    if strategy != "random" and strategy not in PICKS:
        raise ValueError(f"`strategy` must be one of {['random', *PICKS]}, got {strategy!r}.")


def check_audit(audit: object) -> None:
    """Raise unless `audit` is a share above 0."""
    check_number("audit", audit, 0, 1)
    if not audit:
        raise ValueError(
            f"`audit` must be above 0, got {audit!r}: without pairs that are drawn at random nobody knows how labeling goes."
        )


def drawn_at_random(pool: Pool, labeled: np.ndarray, strategy: str) -> np.ndarray:
    """
    Those of the labeled pairs that are a random sample: all of them where `strategy` draws them, else those that come before the
    first pair that nobody has decided about, whatever they were labeled for.
    """
    if strategy == "random":
        return labeled
    undecided = np.flatnonzero(pool.is_open())
    return labeled[labeled < (undecided[0] if len(undecided) else len(pool.rows))]


def pick_round(
    pool: Pool, n: int, strategy: str, audit: float, labels_per_pair: int = 1
) -> tuple[np.ndarray, np.ndarray, str]:
    """The pairs of the next round that are drawn at random, those that the strategy picks, and its reason."""
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
    """The pairs of which the sides lie furthest from one another."""
    return np.argsort(-np.einsum("ij,ij->i", difference, difference), kind="stable")[:n]


def most_gain(
    gain: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Callable[[PreferenceModel, np.ndarray, int], np.ndarray]:
    """
    Pick pairs one by one, each with the greatest gain once the labels of those before are in.

    A gain is a function of the log-odds of pairs and of their variances. A label to come narrows the variances, whatever it says,
    so that gains only fall: a pair is looked at again only where its last gain is among the greatest (Minoux's lazy greedy).
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
    """How much a label shrinks the volume of the weights that are likely: D-optimal design (cf. arXiv 2502.04354)."""
    return np.log1p(expit(logits) * expit(-logits) * variances)


def bald(logits: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """How much a label is expected to tell about the weights: their mutual information (BALD, arXiv 1112.5745)."""
    spread = np.sqrt(np.maximum(variances, 0.0))
    chances = expit(logits[:, None] + spread[:, None] * NODES.astype(logits.dtype))  # (n_pairs, n_nodes)
    mean, known = chances @ WEIGHTS, (entr(chances) + entr(1 - chances)) @ WEIGHTS
    return entr(mean) + entr(1 - mean) - known


# To add a strategy: a function of a model, the differences of pairs `(n_pairs, dim)` and a number, that returns which of the pairs
# it picks, in its order.
PICKS: dict[str, Callable[[PreferenceModel, np.ndarray, int], np.ndarray]] = {
    "easy": least_similar,
    "d_optimal": most_gain(d_optimal),
    "bald": most_gain(bald),
}

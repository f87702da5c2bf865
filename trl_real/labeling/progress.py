"""Estimate the progress of labeling, and whether to stop: `label_progress`."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.special import xlogy

from ..config import SelectionConfig
from ..core.checks import check_count, check_seed
from ..core.messages import response_text
from .annotators import krippendorff_alpha, summarize_annotators
from .label_noise import Estimate, share_estimate
from .pool import Pool
from .preference_model import JudgedPairs, PreferenceModel, chance, fit
from .progress_report import MIN_LABELS, LabelProgress, ProgressPoint
from .rounds import check_round_strategy, drawn_at_random


SIDES = ("a", "b")
# Maximum number of points on the curve.
POINTS = 8
# Number of unlabeled pairs that represent all of them. The pool is in random order, so they are a random sample.
SAMPLE = 5000


def label_progress(
    pairs: Dataset,
    labels: Any,
    n: int = 50,
    strategy: str = "random",
    seed: int = 0,
    *,
    embedder: Any = SelectionConfig.embedder,
    embedder_max_length: int | None = SelectionConfig.embedder_max_length,
    embedder_batch_size: int = SelectionConfig.embedder_batch_size,
    embedder_dtype: str = SelectionConfig.embedder_dtype,
) -> LabelProgress:
    r"""
    Estimate how labeling progresses, and whether to stop.

    A linear model of the embeddings is trained on the labels and evaluated on prompts that it has not seen. Only randomly sampled
    pairs are used for the evaluation. [`next_pairs`] samples pairs in a random order that `seed` determines, so all pairs before
    the first pair without a decision are a random sample. With `strategy="random"`, all labeled pairs are.

    `stop` is `True` if the labels of all remaining pairs together are expected to add less than 0.65 percentage points to the
    agreement, or if every pair has a decision. Otherwise, it is never `True` with fewer than 100 labels of randomly sampled pairs,
    or if the model may be no better than chance.

    Args:
        pairs ([`~datasets.Dataset`]):
            All unlabeled pairs, as passed to [`next_pairs`].
        labels (`str`, `Path`, `dict` or `list`):
            The labels so far, in any format that [`apply_labels`] accepts.
        n (`int`, *optional*, defaults to `50`):
            Number of pairs per round.
        strategy (`str`, *optional*, defaults to `"random"`):
            The strategy that was passed to [`next_pairs`]. Use `"random"` if you sampled the pairs randomly yourself.
        seed (`int`, *optional*, defaults to `0`):
            The seed that was passed to [`next_pairs`].
        embedder, embedder_max_length, embedder_batch_size, embedder_dtype (*optional*):
            As in [`embed_responses`]. Ignored if there is a column `embeddings` with one vector per side.

    Returns:
        [`LabelProgress`]: The learning curve, the expected gain of more labels, statistics of the annotators, `stop` and
        `reasons`.

    Raises:
        `TypeError`: If `pairs` is not a [`~datasets.Dataset`].
        `ValueError`: If a column is missing, an option is not valid, or the labels do not belong to the pairs.

    Example:

    ```python
    >>> from trl_real import label_progress, load_sample, real_select

    >>> candidates = load_sample().remove_columns("scores")
    >>> pairs = candidates.map(real_select, batched=True, remove_columns=["responses"])
    >>> progress = label_progress(pairs, dict.fromkeys(pairs["pair_id"][:20], "a"))
    >>> progress.stop, progress.reasons
    (None, ['Too few labels of randomly sampled pairs: 20 of at least 100.'])
    ```
    """
    check_count("n", n)
    check_round_strategy(strategy)
    check_seed("seed", seed)
    config = SelectionConfig(
        embedder=embedder,
        embedder_max_length=embedder_max_length,
        embedder_batch_size=embedder_batch_size,
        embedder_dtype=embedder_dtype,
    )
    pool = Pool.of(pairs, labels, seed, config.embedder_options)
    labeled = pool.decided[pool.votes(pool.decided)[1] > 0]
    drawn = drawn_at_random(pool, labeled, strategy)
    progress = _count(pool, drawn)
    if len(drawn) >= MIN_LABELS:
        rounds = np.arange(n, len(drawn), n)
        few = (
            rounds[np.unique(np.linspace(0, len(rounds) - 1, POINTS - 1).round().astype(int))]
            if len(rounds)
            else rounds
        )
        progress.curve = [
            ProgressPoint(int(size), *judge(pool, drawn[:size], drawn[:size])) for size in (*few, len(drawn))
        ]
        progress.agreement = (
            progress.curve[-1].agreement if len(drawn) == len(labeled) else judge(pool, labeled, drawn)[0]
        )
        model = fit(pool.difference[labeled].astype(np.float64), *pool.votes(labeled))
        progress.gain_next = expected_gain(model, pool, labeled, n)
        progress.gain_all = expected_gain(model, pool, labeled)
    return progress


def expected_gain(model: PreferenceModel, pool: Pool, labeled: np.ndarray, n: int | None = None) -> float:
    """How much the labels of `n` more pairs are expected to add to the agreement. If `n` is `None`, all remaining pairs."""
    undecided = np.flatnonzero(pool.is_open())
    pairs = judged_pairs(pool, np.concatenate([labeled, undecided[:SAMPLE]]))
    return pairs.expected_gain(model, len(undecided) if n is None else n, len(undecided))


def judged_pairs(pool: Pool, pairs: np.ndarray) -> JudgedPairs:
    """Pairs of the pool in the form in which a model is evaluated."""
    return JudgedPairs(pool.difference[pairs].astype(np.float64), *pool.votes(pairs), pool.prompts[pairs])


def judge(pool: Pool, labeled: np.ndarray, drawn: np.ndarray) -> tuple[Estimate, Estimate]:
    """
    Evaluate a model of the labels on the randomly sampled pairs, each as if the model had not seen its prompt.

    Returns how often the model agrees with the labels, and the mean log-probability that it assigns to them. All pairs of a
    prompt together count as one.
    """
    pairs = judged_pairs(pool, labeled)
    judged = np.isin(labeled, drawn)
    chances = chance(*pairs.unseen(fit(pairs.difference, pairs.share, pairs.count)))[judged]
    share, prompts = pairs.share[judged], pairs.prompts[judged]
    agrees = np.where(chances > 0.5, share, np.where(chances < 0.5, 1 - share, 0.5))
    likelihood = xlogy(share, chances) + xlogy(1 - share, 1 - chances)
    prompts = np.unique(prompts, return_inverse=True)[1]
    of_prompt = np.bincount(prompts)
    agrees, likelihood = (np.bincount(prompts, values) / of_prompt for values in (agrees, likelihood))
    error = 1.96 * likelihood.std() / np.sqrt(len(likelihood))
    mean = float(likelihood.mean())
    return share_estimate(agrees.sum(), (1 - agrees).sum()), Estimate(mean, mean - error, mean + error)


def _count(pool: Pool, drawn: np.ndarray) -> LabelProgress:
    """Count the decisions, and compute the statistics of the annotators."""
    records = [record for of_pair in pool.records for record in of_pair]
    labels = Counter(record.label for record in records)
    first = [record.label == record.shown_first for record in records if record.shown_first and record.label in SIDES]
    seconds = [record.seconds for record in records if record.seconds is not None]
    longer, same, different = [], 0, 0
    texts = pool.pairs.select_columns(["response_a", "response_b"]).select(pool.rows[pool.decided])
    for n, row in zip(pool.decided.tolist(), texts, strict=True):
        sides = [record.label for record in pool.records[n] if record.label in SIDES]
        for one, other in itertools.combinations(sides, 2):
            same, different = same + (one == other), different + (one != other)
        a, b = (len(response_text(row[side])) for side in ("response_a", "response_b"))
        if a != b:
            longer += [side == ("a" if a > b else "b") for side in sides]
    return LabelProgress(
        pairs=len(pool.rows),
        decided=len(pool.decided),
        labels=labels["a"] + labels["b"],
        ties=labels["tie"],
        skipped=labels[None],
        annotators=len({record.annotator for record in records}),
        drawn=len(drawn),
        annotators_agree=share_estimate(same, different) if same + different else None,
        first_shown_wins=share_estimate(sum(first), len(first) - sum(first)) if first else None,
        longer_wins=share_estimate(sum(longer), len(longer) - sum(longer)) if longer else None,
        seconds=float(np.median(seconds)) if seconds else None,
        krippendorff_alpha=krippendorff_alpha(pool.records),
        by_annotator=summarize_annotators(pool.records),
    )

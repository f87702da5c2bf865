"""
Estimate how often each annotator is right, and combine the labels of several annotators (Dawid and Skene).

Each annotator gives the right label of a pair, `"a"`, `"b"` or `"tie"`, with their own probability, and the wrong labels equally often (the
"one-coin" model). The probabilities are estimated from the labels alone: an annotator who often agrees with the others gets more weight.
See Dawid and Skene, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm", 1979.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .label_log import LabelRecord
from .label_noise import Estimate, share_estimate


CLASSES = ("a", "b", "tie")
# The prior: as if 4 more labels had been 75% right, and 4 labels of each annotator had been right as often as the average. An annotator
# with few labels is treated as an average one.
PRIOR_LABELS, PRIOR_SHARE = 4.0, 0.75
STEPS, TOLERANCE = 1000, 1e-9
# Resamples of the pairs for the interval of Krippendorff's alpha.
RESAMPLES = 1000


@dataclass(frozen=True)
class Consensus:
    """
    The combined labels of several annotators.

    Attributes:
        chances (`np.ndarray` of shape `(n_pairs, 3)`): The probability that the right label of each pair is `"a"`, `"b"` or `"tie"`.
        right (`dict[str, float]`): The probability that a label of each annotator is right.
    """

    chances: np.ndarray
    right: dict[str, float]


def dawid_skene(records: list[list[LabelRecord]]) -> Consensus:
    """
    Estimate how often each annotator is right, and from that the right label of each pair.

    This is the maximum a posteriori estimate, found by expectation maximization that starts from the shares of the labels. Two annotators
    get the same estimate, because nothing shows which of them is right more often.

    Args:
        records (`list[list[LabelRecord]]`): The decisions about each pair, all for the same order of the sides. Skipped decisions are ignored.
    """
    cast = sorted(  # the order of the decisions must not change the sums
        (n, record.annotator, CLASSES.index(record.label))
        for n, of_pair in enumerate(records)
        for record in of_pair
        if record.label is not None
    )
    if not cast:
        return Consensus(np.full((len(records), 3), np.nan), {})
    pair, who, label = (np.array(column) for column in zip(*cast, strict=True))
    names, annotator = np.unique(who, return_inverse=True)
    n_classes = 2 + bool((label == 2).any())  # without any tie among the labels, a tie is not a possible right label
    n_labels = np.bincount(annotator)
    chances = np.zeros((len(records), n_classes))
    np.add.at(chances, (pair, label), 1.0)
    n_of_pair = chances.sum(1, keepdims=True)
    chances = np.divide(chances, n_of_pair, out=np.full_like(chances, 1 / n_classes), where=n_of_pair > 0)
    right = np.zeros(len(names))
    for _ in range(STEPS):
        n_right = np.bincount(annotator, chances[pair, label])
        average = (n_right.sum() + PRIOR_LABELS * PRIOR_SHARE) / (n_labels.sum() + PRIOR_LABELS)
        before, right = right, (n_right + PRIOR_LABELS * average) / (n_labels + PRIOR_LABELS)
        if len(names) < 3:  # nothing shows which of two annotators is right more often
            right = np.full(len(names), average)
        if np.abs(right - before).max() < TOLERANCE:
            break
        chances = _chances(pair, label, right[annotator], len(records), n_classes)
    chances = np.pad(chances, ((0, 0), (0, 3 - n_classes)))
    chances[n_of_pair[:, 0] == 0] = np.nan
    return Consensus(chances, dict(zip(names.tolist(), right.tolist(), strict=True)))


def _chances(pair: np.ndarray, label: np.ndarray, right: np.ndarray, n_pairs: int, n_classes: int) -> np.ndarray:
    """The probability that each label of a pair is right, `(n_pairs, n_classes)`, if each given label is right with probability `right`."""
    weight = np.log(right) - np.log((1 - right) / (n_classes - 1))
    votes = np.zeros((n_pairs, n_classes))
    np.add.at(votes, (pair, label), weight)
    chances = np.exp(votes - votes.max(1, keepdims=True))
    return np.asarray(chances / chances.sum(1, keepdims=True))


def least_certain(records: list[list[LabelRecord]]) -> np.ndarray:
    """The numbers of the pairs for which another label is most useful, least certain first."""
    most = dawid_skene(records).chances.max(1)
    labeled = np.flatnonzero(~np.isnan(most))
    # A pair cannot have more labels than there are annotators.
    limit = max(2, len({record.annotator for of_pair in records for record in of_pair}))
    labeled = labeled[[len(records[n]) < limit for n in labeled.tolist()]]
    return labeled[np.argsort(most[labeled].round(9), kind="stable")]


@dataclass
class AnnotatorSummary:
    """
    A summary of one annotator.

    Attributes:
        name (`str`): Name of the annotator.
        labels (`int`): Number of labels, including ties.
        error (`float` or `None`): Estimated share of wrong labels; `None` if no pair has labels of several annotators.
        first_shown_wins (`Estimate` or `None`): How often the side that was shown first wins; `None` if unknown.
        ties (`float`): Share of ties among the labels.
    """

    name: str
    labels: int
    error: float | None
    first_shown_wins: Estimate | None
    ties: float

    def in_words(self) -> str:
        """The summary in one line, without the name."""
        facts = [f"{self.labels:,} labels"]
        if self.error is not None:
            facts.append(f"{self.error:.0%} wrong (estimated)")
        if self.first_shown_wins is not None:
            facts.append(f"first shown wins {self.first_shown_wins.value:.0%}")
        return ", ".join([*facts, f"{self.ties:.0%} ties"])


def summarize_annotators(records: list[list[LabelRecord]]) -> list[AnnotatorSummary]:
    """A summary per annotator, sorted by the number of labels."""
    by_name: dict[str, list[LabelRecord]] = {}
    for record in (record for of_pair in records for record in of_pair if record.label is not None):
        by_name.setdefault(record.annotator, []).append(record)
    several = any(len({record.annotator for record in of_pair if record.label is not None}) > 1 for of_pair in records)
    right = dawid_skene(records).right if several else {}
    summaries = []
    for name, labels in sorted(by_name.items(), key=lambda item: (-len(item[1]), item[0])):
        first = [r.label == r.shown_first for r in labels if r.shown_first is not None and r.label != "tie"]
        summaries.append(
            AnnotatorSummary(
                name,
                len(labels),
                1 - right[name] if several else None,
                share_estimate(sum(first), len(first) - sum(first)) if first else None,
                sum(record.label == "tie" for record in labels) / len(labels),
            )
        )
    return summaries


def krippendorff_alpha(records: list[list[LabelRecord]], seed: int = 0) -> Estimate | None:
    """
    Krippendorff's alpha, the agreement beyond chance: 1 for perfect agreement, 0 for chance. `None` if no pair has several labels, or all
    labels are the same. Evalica computes the 95% interval by resampling pairs (Krippendorff 2006).
    """
    import pandas as pd  # which takes a moment
    from evalica import alpha_bootstrap

    several = [labels for of_pair in records if len(labels := _by_annotator(of_pair)) > 1]
    if len({label for labels in several for label in labels.values()}) < 2:
        return None
    table = pd.DataFrame(several).T  # annotators in rows, pairs in columns
    found = alpha_bootstrap(table, "nominal", n_resamples=RESAMPLES, random_state=seed)
    return Estimate(float(found.alpha), float(found.low), float(found.high))


def _by_annotator(records: Iterable[LabelRecord]) -> dict[str, int]:
    return {record.annotator: CLASSES.index(record.label) for record in records if record.label is not None}

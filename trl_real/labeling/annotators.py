"""
How good each annotator is, and what their labels say together: the model of Dawid and Skene.

Each annotator gives the right label of a pair, `"a"`, `"b"` or `"tie"`, with a chance of their own, and each wrong one equally often
(the "one-coin" model). The chances are estimated from the labels alone: whoever agrees with the others is taken to be right more often,
and counts more. See Dawid and Skene, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm", 1979.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .label_log import LabelRecord
from .label_noise import Estimate, share_estimate


CLASSES = ("a", "b", "tie")
# What is known about the annotators before their labels: as if 4 more labels had been 75% right, and 4 labels of each had been as often
# right as those of all. Whoever has labeled little is taken for an average annotator.
PRIOR_LABELS, PRIOR_SHARE = 4.0, 0.75
STEPS, TOLERANCE = 1000, 1e-9
# Resamples of the pairs for the interval of Krippendorff's alpha.
RESAMPLES = 1000


@dataclass(frozen=True)
class Consensus:
    """
    What the labels of several annotators say together.

    Attributes:
        chances (`np.ndarray` of shape `(n_pairs, 3)`): How likely it is that a pair's right label is `"a"`, `"b"` or `"tie"`.
        right (`dict[str, float]`): How often each annotator is right.
    """

    chances: np.ndarray
    right: dict[str, float]


def dawid_skene(records: list[list[LabelRecord]]) -> Consensus:
    """
    Estimate how often each annotator is right, and from that the right label of each pair.

    The estimate is the one with the greatest posterior, found by expectation maximization from the shares of the labels.

    Args:
        records (`list[list[LabelRecord]]`): The decisions about each pair, in terms of the same sides. Skipped ones count for nothing.
    """
    cast = sorted(  # so that sums are the same in whatever order people have labeled
        (n, record.annotator, CLASSES.index(record.label))
        for n, of_pair in enumerate(records)
        for record in of_pair
        if record.label is not None
    )
    if not cast:
        return Consensus(np.full((len(records), 3), np.nan), {})
    pair, who, label = (np.array(column) for column in zip(*cast, strict=True))
    names, annotator = np.unique(who, return_inverse=True)
    n_classes = 2 + bool((label == 2).any())  # of annotators who never call a tie nobody knows what one looks like
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
        if np.abs(right - before).max() < TOLERANCE:
            break
        chances = _chances(pair, label, right[annotator], len(records), n_classes)
    chances = np.pad(chances, ((0, 0), (0, 3 - n_classes)))
    chances[n_of_pair[:, 0] == 0] = np.nan
    return Consensus(chances, dict(zip(names.tolist(), right.tolist(), strict=True)))


def _chances(pair: np.ndarray, label: np.ndarray, right: np.ndarray, n_pairs: int, n_classes: int) -> np.ndarray:
    """How likely each label is the right one of each pair, `(n_pairs, n_classes)`, where a label is right as often as `right` says."""
    weight = np.log(right) - np.log((1 - right) / (n_classes - 1))
    votes = np.zeros((n_pairs, n_classes))
    np.add.at(votes, (pair, label), weight)
    chances = np.exp(votes - votes.max(1, keepdims=True))
    return np.asarray(chances / chances.sum(1, keepdims=True))


def least_certain(records: list[list[LabelRecord]]) -> np.ndarray:
    """The pairs on which one label more tells most: those whose likeliest label is least likely, each with its number."""
    most = dawid_skene(records).chances.max(1)
    labeled = np.flatnonzero(~np.isnan(most))
    # At most as many labels as there are annotators, who decide about a pair once.
    limit = max(2, len({record.annotator for of_pair in records for record in of_pair}))
    labeled = labeled[[len(records[n]) < limit for n in labeled.tolist()]]
    return labeled[np.argsort(most[labeled].round(9), kind="stable")]


@dataclass
class AnnotatorSummary:
    """
    What is known about an annotator.

    Attributes:
        name (`str`): Who.
        labels (`int`): How many labels they gave, ties included.
        error (`float` or `None`): How often their label is estimated to be wrong; `None` where no pair has labels of several annotators.
        first_shown_wins (`Estimate` or `None`): How often the side that they were shown first wins, where this is known.
        ties (`float`): The share of their labels that are ties.
    """

    name: str
    labels: int
    error: float | None
    first_shown_wins: Estimate | None
    ties: float

    def in_words(self) -> str:
        """All of it but the name, in a line."""
        facts = [f"{self.labels:,} labels"]
        if self.error is not None:
            facts.append(f"{self.error:.0%} wrong (estimated)")
        if self.first_shown_wins is not None:
            facts.append(f"first shown wins {self.first_shown_wins.value:.0%}")
        return ", ".join([*facts, f"{self.ties:.0%} ties"])


def summarize_annotators(records: list[list[LabelRecord]]) -> list[AnnotatorSummary]:
    """What is known about each annotator, those with the most labels first."""
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
    How much more annotators agree than they would by chance: 1 for always, 0 for as much as chance. `None` where no pair has several
    labels, or all labels are the same. The interval is from resampled pairs (Krippendorff 2006), as Evalica computes it.
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

"""Find the responses of each prompt that may form a pair, and apply the policies to the others."""

import math
import sys
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .batch import PAIR_SCORES, Candidates, GivenPairs


# Reasons why a row has no pair, or a pair has no preference, in the order in which they are checked.
SKIP_REASONS = {
    "missing_response": "`chosen` or `rejected` is null",
    "no_shared_turn": "the two sides begin with different turns",
    "no_shared_words": "no column holds a prompt, and the two sides begin with different words",
    "missing_prompt": "the prompt is null",
    "too_few_responses": "fewer than two responses are not empty",
    "duplicate_responses": "fewer than two responses differ",
    "missing_scores": "fewer than two distinct responses have a score",
    "tied_scores": "no two scores differ by more than `min_score_gap`",
    "no_pair_for_strategy": "the strategy can use none of the pairs that may be labeled",
    "missing_label": "nobody has labeled the pair",
    "tied_labels": "neither side has more than half of the labels",
}

# Changes to rows and responses that do not skip their prompt: the label in reports, and the description.
POLICIES = {
    "grouped_rows": ("rows grouped", "they share the prompt of an earlier row"),
    "differing_prompts": ("prompts cut", "the prompts of both sides differ after the last assistant turn they share"),
    "empty_responses": ("responses empty", "null or white space, left out"),
    "equal_responses": ("responses merged", "equal to another one (Unicode NFC, stripped)"),
    "averaged_scores": ("scores averaged", "merged responses had different scores"),
    "unscored_responses": ("responses unscored", "without a score, left out"),
    "reversed_scores": ("pairs reversed", "`chosen` has the lower score, kept as they were given"),
    "tied_pairs": ("pairs tied", "scores differ by no more than `min_score_gap`, never labeled"),
}


# The characters that `str.strip` removes.
WHITE_SPACE = "".join(filter(str.isspace, map(chr, range(sys.maxunicode + 1))))


@dataclass
class Eligible:
    """
    The m responses of a batch of n prompts that may form a pair, prompt by prompt.

    Attributes:
        counts (`np.ndarray` of shape `(n,)`): The number of eligible responses of each prompt.
        positions (`np.ndarray` of shape `(m,)`): The positions of the responses in `Rows.responses`. The responses of a prompt
            are sorted by the code points of their texts.
        scores (`np.ndarray` of shape `(m,)` or `None`): The scores of the responses, if there are any.
        reasons (`list` of length n): Why a prompt has no pair, a key of `SKIP_REASONS`; `None` if it has one.
        policies (`Counter[str]`): How often each policy, a key of `POLICIES`, was applied to a response.
    """

    counts: np.ndarray
    positions: np.ndarray
    scores: np.ndarray | None
    reasons: list[str | None]
    policies: Counter[str] = field(default_factory=Counter)

    @property
    def starts(self) -> np.ndarray:
        """Where the responses of each prompt begin, `(n,)`."""
        return np.cumsum(self.counts) - self.counts


def find_eligible(rows: Candidates | GivenPairs, min_score_gap: float) -> Eligible:
    """Which responses of each prompt may form a pair, and why there is none."""
    reasons = np.full(len(rows.counts), None, dtype=object)
    if isinstance(rows, GivenPairs):  # never merged or turned round: people gave them
        eligible = Eligible(rows.counts, np.arange(2 * len(reasons)), rows.scores, [])
        eligible.policies["reversed_scores"] = _judge_pairs(rows, min_score_gap, reasons)
        missing = _are_null(rows.responses).reshape(-1, 2).any(1)
    else:
        eligible = _distinct(rows, reasons)
        _refuse_ties(eligible, min_score_gap, reasons)
        missing = np.zeros(len(reasons), dtype=bool)
    reasons[_are_null(rows.prompts)] = "missing_prompt"
    reasons[missing] = "missing_response"
    eligible.reasons = [
        earlier if earlier in SKIP_REASONS else reason for earlier, reason in zip(rows.reasons, reasons, strict=True)
    ]
    return eligible


def check_gap(min_score_gap: float, columns: Collection[str]) -> None:
    """Raise if a gap is asked for between the scores of given pairs, and they have none."""
    if min_score_gap and {"chosen", "rejected"} <= set(columns) and not {*PAIR_SCORES} <= set(columns):
        raise ValueError(
            f"`min_score_gap={min_score_gap}` needs the columns `score_chosen` and `score_rejected` beside given pairs. Found: "
            f"{sorted(columns)}. Rename the columns that hold the scores, or leave `min_score_gap` at 0."
        )


def _judge_pairs(pairs: GivenPairs, min_score_gap: float, reasons: np.ndarray) -> int:
    """Write to `reasons` which given pairs are empty, equal or tied. Returns how many others score `rejected` higher."""
    n, rows = len(pairs.counts), pairs.row_of
    order, leaders = equal_responses(pairs.texts, rows)
    turned = np.zeros(n, dtype=bool)
    if pairs.scores is not None:
        chosen, rejected = pairs.scores.reshape(-1, 2).T
        with np.errstate(invalid="ignore"):  # infinity minus infinity is a tie
            differ = np.abs(chosen - rejected) > min_score_gap
        known, turned = ~(np.isnan(chosen) | np.isnan(rejected)), chosen < rejected
        reasons[known & ~differ] = "tied_scores"
        if min_score_gap:
            reasons[~known] = "missing_scores"
    reasons[np.bincount(rows[order[order == leaders]], minlength=n) < 2] = "duplicate_responses"
    reasons[np.bincount(rows[order], minlength=n) < 2] = "too_few_responses"
    return sum(reason is None for reason in reasons[turned])


def _refuse_ties(eligible: Eligible, min_score_gap: float, reasons: np.ndarray) -> None:
    """Write to `reasons` which prompts have no two scores that differ enough."""
    if eligible.scores is None or not len(reasons):
        return
    ends = np.cumsum(eligible.counts)
    bounds = np.column_stack([ends - eligible.counts, ends]).ravel()
    scores = np.append(eligible.scores, math.nan)  # so that the last end is an index
    with np.errstate(invalid="ignore", over="ignore"):  # infinity minus infinity is a tie
        spread = np.maximum.reduceat(scores, bounds)[::2] - np.minimum.reduceat(scores, bounds)[::2]
    reasons[(eligible.counts >= 2) & ~(spread > min_score_gap)] = "tied_scores"


def _distinct(candidates: Candidates, reasons: np.ndarray) -> Eligible:
    """
    The distinct, non-empty responses of each prompt; where there are scores, those without one are left out. Writes to
    `reasons` why a prompt is left with fewer than two.
    """
    n, rows = len(candidates.counts), candidates.row_of
    order, leaders = equal_responses(candidates.texts, rows)
    is_leader = order == leaders
    positions = order[is_leader]
    n_texts, n_distinct = (np.bincount(rows[found], minlength=n) for found in (order, positions))
    policies = Counter(empty_responses=len(rows) - len(order), equal_responses=len(order) - len(positions))
    scores = None
    if candidates.scores is not None:
        scores = candidates.scores.copy()
        for group in merged_responses(order, leaders):
            scores[group[0]], averaged = mean_score(scores[group].tolist())  # in the place of the first
            policies["averaged_scores"] += averaged
        scores = scores[positions]
        scored = ~np.isnan(scores)
        policies["unscored_responses"] = len(scores) - int(scored.sum())
        positions, scores = positions[scored], scores[scored]
    counts = np.bincount(rows[positions], minlength=n)
    reasons[counts < 2] = "missing_scores"
    reasons[n_distinct < 2] = "duplicate_responses"
    reasons[n_texts < 2] = "too_few_responses"
    return Eligible(counts, positions, scores, [], policies)


def equal_responses(texts: pa.Array, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Which responses of a row are equal: those whose texts are, after Unicode NFC and `strip()`.

    White space inside a text is meaning, in code above all.

    Args:
        texts (`pa.Array` of length n): The texts of the responses.
        rows (`np.ndarray` of shape `(n,)`): The row of each, in ascending order.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: The positions of the texts that are not empty, row by row and in code-point order
        within a row, and for each of them the position of the first text of the row that equals it. That one stands for
        all of them, whatever the order of the texts.
    """
    forms = _forms(texts)
    # In the order of the bytes of UTF-8, which is that of the code points.
    order = pc.sort_indices(
        pa.table({"row": rows, "text": texts}), sort_keys=[("row", "ascending"), ("text", "ascending")]
    ).to_numpy()
    order = order[pc.not_equal(forms, "").to_numpy(zero_copy_only=False)[order]].astype(np.int64)
    codes = forms.dictionary_encode()
    if len(codes.dictionary) >= len(texts):  # all differ
        return order, order
    keys = rows[order] * len(texts) + codes.indices.to_numpy(zero_copy_only=False)[order]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return order, order[first[inverse]]


def _forms(texts: pa.Array) -> pa.Array:
    """The texts after Unicode NFC and `strip()`: equal for equal responses."""
    forms = pc.utf8_trim(texts, characters=WHITE_SPACE)
    return forms if pc.all(pc.string_is_ascii(forms)).as_py() else pc.utf8_normalize(forms, form="NFC")


def merged_responses(order: np.ndarray, leaders: np.ndarray) -> Iterable[list[int]]:
    """The positions of each group of two or more that [`equal_responses`] finds, the first of them first."""
    groups: dict[int, list[int]] = {}
    others = order != leaders
    for position, leader in zip(order[others].tolist(), leaders[others].tolist(), strict=True):
        groups.setdefault(leader, [leader]).append(position)
    return groups.values()


def mean_score(scores: list[float]) -> tuple[float, bool]:
    """The mean of the scores that are not NaN, NaN if there is none; and whether they differ."""
    known = sorted(score for score in scores if not math.isnan(score))
    if not known:
        return math.nan, False
    # Of equal scores the mean is that score, without the rounding of a sum.
    return (known[0], False) if known[0] == known[-1] else (sum(known) / len(known), True)


def _are_null(values: Any) -> np.ndarray:
    if isinstance(values, pa.Array):
        return values.is_null().to_numpy(zero_copy_only=False)
    return np.array([value is None for value in values], dtype=bool)

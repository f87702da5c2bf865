"""Which responses of a prompt may form a pair, and what is done with the others: every policy, by name."""

import math
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field

from .candidates import Candidates


# Why a row has no pair, or a pair no preference, in the order in which the reasons are looked for.
SKIP_REASONS = {
    "missing_response": "`chosen` or `rejected` is null",
    "no_shared_turn": "the two sides begin with different turns",
    "missing_prompt": "the prompt is null",
    "too_few_responses": "fewer than two responses are not empty",
    "duplicate_responses": "fewer than two responses differ",
    "missing_scores": "fewer than two distinct responses have a score",
    "tied_scores": "no two scores differ by more than `min_score_gap`",
    "no_pair_for_strategy": "the strategy can use none of the pairs that may be labelled",
    "missing_label": "nobody has labelled the pair",
    "tied_labels": "the labels prefer neither side by more than half",
}

# What was done to rows and responses on the way, which is no reason to skip their prompt: to what, and what.
POLICIES = {
    "grouped_rows": ("rows grouped", "they share the prompt of an earlier row"),
    "differing_prompts": ("prompts cut", "the prompts of both sides differ after the last assistant turn they share"),
    "empty_responses": ("responses empty", "null or white space, left out"),
    "equal_responses": ("responses merged", "equal to another one (Unicode NFC, stripped)"),
    "averaged_scores": ("scores averaged", "merged responses had different ones"),
    "unscored_responses": ("responses unscored", "without a score, left out"),
    "tied_pairs": ("pairs tied", "scores differ by no more than `min_score_gap`, never labelled"),
}


@dataclass
class Eligible:
    """
    The responses of one prompt that may form a pair.

    Attributes:
        positions (`list[int]`): Their positions in the row, in code-point order of their texts.
        scores (`list[float]`): Their scores; empty if there are none.
        reason (`str` or `None`): Why no pair can be built from them, a key of `SKIP_REASONS`.
        policies (`dict[str, int]`): What was done with the other responses, a key of `POLICIES` to a count.
    """

    positions: list[int]
    scores: list[float]
    reason: str | None
    policies: dict[str, int] = field(default_factory=dict)


def eligible_responses(candidates: Candidates, min_score_gap: float) -> list[Eligible]:
    """Which responses of each prompt may form a pair; given pairs are taken as they are unless something is null."""
    eligible = []
    for r, (prompt, texts) in enumerate(zip(candidates.prompts, candidates.texts, strict=True)):
        if candidates.given_pairs:
            row = Eligible([0, 1], [], None)
            if any(response is None for response in candidates.responses[r]):
                row.reason = "missing_response"
            elif prompt is None:
                row.reason = "missing_prompt"
        else:
            row = _distinct(texts, None if candidates.scores is None else candidates.scores[r])
            if prompt is None:
                row.reason = "missing_prompt"
            elif len(row.positions) < 2:
                row.reason = _why_too_few(texts)
            elif row.scores and not max(row.scores) - min(row.scores) > min_score_gap:
                row.reason = "tied_scores"
        if candidates.reasons[r] in SKIP_REASONS:
            row.reason = candidates.reasons[r]
        eligible.append(row)
    return eligible


def _distinct(texts: list[str], scores: list[float] | None) -> Eligible:
    """The distinct, non-empty responses of a prompt; where there are scores, those without one are left out."""
    groups = list(equal_responses(texts))
    row = Eligible([group[0] for group in groups], [], None)
    n_texts = sum(map(len, groups))
    if n_texts < len(texts):
        row.policies["empty_responses"] = len(texts) - n_texts
    if len(groups) < n_texts:
        row.policies["equal_responses"] = n_texts - len(groups)
    if scores is None:
        return row
    row.positions = []
    for group in groups:
        score, averaged = mean_score([scores[position] for position in group])
        if averaged:
            row.policies["averaged_scores"] = row.policies.get("averaged_scores", 0) + 1
        if math.isnan(score):
            continue
        row.positions.append(group[0])
        row.scores.append(score)
    if len(row.positions) < len(groups):
        row.policies["unscored_responses"] = len(groups) - len(row.positions)
    return row


def equal_responses(texts: list[str]) -> Iterator[list[int]]:
    """
    Positions of the non-empty texts, those that are equal after Unicode NFC and `strip()` together.

    White space inside a text is meaning, in code above all. The groups, and the positions in each, are in code-point
    order of the texts, so that the first of a group stands for it whatever the order of the texts.
    """
    groups: dict[str, list[int]] = {}
    for position in sorted(range(len(texts)), key=texts.__getitem__):
        key = unicodedata.normalize("NFC", texts[position].strip())
        if key:
            groups.setdefault(key, []).append(position)
    return iter(groups.values())


def mean_score(scores: list[float]) -> tuple[float, bool]:
    """The mean of the scores that are not NaN, NaN if there is none; and whether they differ."""
    known = sorted(score for score in scores if not math.isnan(score))
    if not known:
        return math.nan, False
    # Of equal scores the mean is that score, without the rounding of a sum.
    return (known[0], False) if known[0] == known[-1] else (sum(known) / len(known), True)


def _why_too_few(texts: list[str]) -> str:
    if sum(bool(text.strip()) for text in texts) < 2:
        return "too_few_responses"
    return "missing_scores" if len(list(equal_responses(texts))) >= 2 else "duplicate_responses"

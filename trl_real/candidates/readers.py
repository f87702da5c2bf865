"""From the cells of a layout to responses and their scores."""

import math
import re
from collections.abc import Mapping
from numbers import Real
from typing import Any

from ..core.columns import cell, kind, read_column
from ..core.messages import as_conversation
from ..core.transform import Transform
from .batch import check_prompt, read_list, read_scores, read_text


# What a response that comes as a dict is made of.
TEXT_FIELDS = ("response", "text", "content", "completion", "answer", "generation", "output")
# The score is the first of these by which all responses of a prompt are scored, for one scale is not another:
# UltraFeedback's `overall_score` runs to 10, its `fine-grained_score` and ratings to 5. Of a rank, 1 is the best.
SCORE_FIELDS = ("overall_score", "fine-grained_score", "annotations", "score", "pm_score", "rating", "reward", "rank")
NUMBER = re.compile(r"\s*[-+]?\d+(\.\d+)?\s*")


@Transform
def write_responses(
    batch: Any, layout: str, columns: dict[str, str], text_field: str | None, rated: bool, conversational: bool
) -> Any:
    """Write the prompts, responses and scores of a batch, from the columns of the parts of its layout."""
    cells = {part: read_column(batch, column) for part, column in columns.items()}
    prompts = cells["prompt"]
    for r, prompt in enumerate(prompts):
        check_prompt(prompt, columns["prompt"], r)
    scores: list[Any] | None = None
    if layout == "shp":
        responses = [list(pair) for pair in zip(cells["human_ref_A"], cells["human_ref_B"], strict=True)]
        scores = [
            [_number(value, columns[part], r) for part, value in (("score_A", a), ("score_B", b))]
            for r, (a, b) in enumerate(zip(cells["score_A"], cells["score_B"], strict=True))
        ]
    elif layout == "unpaired":
        responses = [[response] for response in cells["responses"]]
        if "scores" in cells:
            scores = [[_number(value, columns["scores"], r)] for r, value in enumerate(cells["scores"])]
    else:
        lists = [read_list(row, columns["responses"], r) or [] for r, row in enumerate(cells["responses"])]
        responses = [[_response(item, text_field) for item in row] for row in lists]
        if "scores" in cells:
            scores = [read_scores(v, len(lists[r]), columns["scores"], r) for r, v in enumerate(cells["scores"])]
        elif "ranks" in cells:
            ranks = (read_scores(v, len(lists[r]), columns["ranks"], r) for r, v in enumerate(cells["ranks"]))
            scores = [[-rank for rank in row] for row in ranks]
        elif rated:
            scores = [_ratings(row) for row in lists]
    for r, row in enumerate(responses):
        for i, response in enumerate(row):
            column = columns.get("responses") or ("human_ref_A", "human_ref_B")[i]
            read_text(response, column, r)
            if None not in (response, row[0]) and isinstance(response, str) != isinstance(row[0], str):
                raise TypeError(f"{cell(column, r)}: expected texts or messages, not both, found {kind(response)}.")
        if conversational:
            prompts[r], responses[r] = as_conversation(prompts[r], row)
    batch["prompt"], batch["responses"] = prompts, responses
    if scores is not None:
        batch["scores"] = [[None if s is None or math.isnan(s) else s for s in row] for row in scores]
    return batch


def _response(item: Any, text_field: str | None) -> Any:
    """The text or messages of an item of a list of responses."""
    if not isinstance(item, Mapping):
        return item
    return [item] if text_field is None else item.get(text_field)


def _number(value: Any, column: str, r: int) -> float | None:
    if value is None or isinstance(value, Real):  # a label may be a bool
        return None if value is None else float(value)
    raise TypeError(f"{cell(column, r)}: expected a number, a bool or None, found {kind(value)}.")


def _ratings(items: list[Any]) -> list[float | None]:
    """The scores of a prompt, all from the one field that has most of them."""
    best: list[float | None] = [None] * len(items)
    for field in SCORE_FIELDS:
        scores = [_rating(item.get(field), field) if isinstance(item, Mapping) else None for item in items]
        if best.count(None) > scores.count(None):
            best = scores
    return best


def _rating(value: Any, field: str) -> float | None:
    """A rating as a number, or `None` if it is missing or cannot be read; of several aspects the mean of the known."""
    if field == "annotations":
        aspects = value.values() if isinstance(value, Mapping) else ()
        ratings = [_rating(aspect.get("Rating"), "Rating") for aspect in aspects if isinstance(aspect, Mapping)]
        known = [rating for rating in ratings if rating is not None]
        return sum(known) / len(known) if known else None
    if isinstance(value, str):
        value = float(value) if NUMBER.fullmatch(value) else None
    if not isinstance(value, Real) or not math.isfinite(value):
        return None
    return -float(value) if field == "rank" else float(value)

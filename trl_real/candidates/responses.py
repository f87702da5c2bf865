"""Layouts of responses: how lists of them, or one or two per row, are read with their scores."""

import itertools
import logging
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from datasets import Features, List, Value

from ..core.columns import column_names, first_values, is_number, read_column
from ..core.messages import (
    MESSAGES,
    as_conversation,
    as_message,
    common_feature,
    is_list,
    item_feature,
    joint_features,
)
from ..core.prompts import SYSTEM, take_off_prompt, with_system
from ..core.transform import Transform, map_rows
from .batch import is_ready
from .cells import check_alike, check_prompt, read_list, read_number, read_scores, read_text
from .options import ReadOptions


logger = logging.getLogger(__name__)

OUTPUTS = ("prompt", "responses", "scores")
# The fields of a layout that hold scores.
SCORED = {"scores", "ranks", "score_A"}
# What a response that comes as a dict is made of.
TEXT_FIELDS = ("response", "text", "content", "completion", "answer", "generation", "output")
# The score is the first of these fields that all responses of a prompt have, because the scales differ: UltraFeedback's
# `overall_score` goes up to 10, its `fine-grained_score` and ratings up to 5. Rank 1 is the best.
SCORE_FIELDS = ("overall_score", "fine-grained_score", "annotations", "score", "pm_score", "rating", "reward", "rank")
NUMBER = re.compile(r"\s*[-+]?\d+(\.\d+)?\s*")
# Numbers beside a response that are no mark.
NO_MARK = re.compile(
    r"(^|_)(id|idx|index|row|n|num|count|length|len|tokens|turn|turns|seed|timestamp|time|date|year)(_|$)",
    re.IGNORECASE,
)
# The cells of a batch, by field.
Cells = dict[str, list[Any]]
# From these, the column of each field, the field of a text and those of a score, to responses and their scores.
Reader = Callable[[Cells, dict[str, str], str | None, Collection[str]], tuple[list[Any], list[Any] | None]]


def read_responses(dataset: Any, layout: Any, columns: dict[str, str], options: ReadOptions) -> Any:
    """Candidates: `prompt`, `responses` and perhaps `scores`."""
    grouped, conversational = options.grouped, options.conversational
    features, fields = dataset.features, list[str]()
    if layout.single:
        item = features and common_feature([features[columns[field]] for field in layout.single])
    else:
        item = features and item_feature(features[columns["responses"]])
        fields = list(item) if isinstance(item, dict) else _fields(dataset, columns["responses"])
    text_field = None
    if fields and "role" not in fields:
        text_field = next((field for field in TEXT_FIELDS if field in fields), None)
        if text_field is None:
            raise ValueError(
                f"Column `{columns['responses']}` holds dicts without a text. Found: {fields}. Expected one of "
                f"{list(TEXT_FIELDS)}, or a list of texts or messages."
            )
    score_fields = (
        (options.score_field,) if options.score_field else SCORE_FIELDS if {*SCORE_FIELDS} & {*fields} else ()
    )
    if not (score_fields or columns.keys() & SCORED):
        _warn_of_unused_scores(dataset, columns, one_each=bool(layout.single))
    if features is not None:
        usual = all(field == column for field, column in columns.items()) and columns.keys() <= {*OUTPUTS}
        lists = all(is_list(features[column]) for column in {"responses", "scores"} & {*columns.values()})
        if usual and lists and not (layout.single or fields or conversational or grouped) and is_ready(dataset):
            return dataset  # as they should be
        if text_field:
            item = item[text_field] if isinstance(item, dict) else None
        elif fields:
            item = List(item)
        prompt, (item,) = joint_features(common_feature([features[columns["prompt"]]]), [item])
        if conversational:
            prompt, item = (common_feature([MESSAGES, feature]) for feature in (prompt, item))
        read = {"prompt": prompt, "responses": List(item)}
        if score_fields or columns.keys() & SCORED:
            read["scores"] = List(Value("float64"))
        others = {name: feature for name, feature in features.items() if name not in columns.values()}
        features = Features(read | others)
    return map_rows(
        dataset,
        write_responses,
        features,
        desc="Reading responses",
        fn_kwargs={
            "read": layout.read_cells,
            "columns": columns,
            "text_field": text_field,
            "score_fields": score_fields,
            "has_messages": features is not None and is_list(features["prompt"]) and not conversational,
            "conversational": conversational,
        },
        remove_columns=[column for column in columns.values() if column not in OUTPUTS] or None,
    )


def _warn_of_unused_scores(dataset: Any, columns: dict[str, str], one_each: bool) -> None:
    """Say which columns look like scores where none were recognized, before people are asked for labels."""
    others = [name for name in column_names(dataset) or [] if name not in columns.values()]
    found = _marks(dataset, others) if one_each else score_lists(dataset, columns["responses"], others)
    if found:
        logger.warning(
            "No scores are read, although %s one number per response. If these are scores, higher is better, pass "
            "`scores_column=%r` to `to_candidates`, or `--scores_column %s` on the command line.",
            f"the columns {found} hold" if len(found) > 1 else f"the column `{found[0]}` holds",
            found[0],
            found[0],
        )


def _marks(dataset: Any, columns: list[str]) -> list[str]:
    """Those of `columns` that hold a number in each of the first rows, and are by their name no id or count."""
    found = []
    for column in columns:
        values = [value for value in first_values(dataset, column) if value is not None]
        if values and all(is_number(value) for value in values) and not NO_MARK.search(column):
            found.append(column)
    return found


def find_score_field(dataset: Any, name: str) -> bool:
    """Whether `name` is no column, but a field of the responses that holds their scores, as in UltraFeedback."""
    columns = column_names(dataset) or []
    if name in columns:
        return False
    for column in columns:
        for row in first_values(dataset, column):
            items = [item for item in row if isinstance(item, Mapping)] if isinstance(row, list) else []
            if any(name in item or name in (item.get("annotations") or ()) for item in items):
                return True
    return False


def _fields(dataset: Any, column: str) -> list[str]:
    """The fields of the dicts in a column of a stream, from its first rows."""
    rows = [row for row in first_values(dataset, column) if isinstance(row, list)]
    return list(dict.fromkeys(field for row in rows for item in row if isinstance(item, Mapping) for field in item))


def score_lists(dataset: Any, responses: str, columns: list[str], bools: bool = False) -> list[str]:
    """The columns that hold a list of numbers (or bools, if allowed) in the first rows, one per response."""
    features = dataset.features
    columns = [column for column in columns if features is None or is_list(features[column])]
    if not columns:
        return []
    rows = list(itertools.islice(dataset.select_columns([responses, *columns]), 100))
    found = []
    for column in columns:
        known = [row for row in rows if row.get(column) is not None]
        if known and all(_is_one_a_response(row[column], row.get(responses), bools) for row in known):
            found.append(column)
    return found


def _is_one_a_response(value: Any, responses: Any, bools: bool) -> bool:
    if not (isinstance(value, list) and isinstance(responses, list) and len(value) == len(responses)):
        return False
    return all(item is None or (is_number(item) and (bools or not isinstance(item, bool))) for item in value)


@Transform
def write_responses(
    batch: Any,
    read: Reader,
    columns: dict[str, str],
    text_field: str | None,
    score_fields: Collection[str],
    has_messages: bool,
    conversational: bool,
) -> Any:
    """Write the prompts, responses and scores of a batch, from the columns that hold the fields of its layout."""
    cells = {field: read_column(batch, column) for field, column in columns.items()}
    prompts = cells["prompt"]
    for r, prompt in enumerate(prompts):
        check_prompt(prompt, columns["prompt"], r)
    responses, scores = read(cells, columns, text_field, score_fields)
    names = [columns[field] for field in ("human_ref_A", "human_ref_B") if field in columns] or [columns["responses"]]
    for r, row in enumerate(responses):
        for i, response in enumerate(row):
            read_text(response, names[i % len(names)], r)
        check_alike(row, names[-1], r)
        prompts[r], row = take_off_prompt(prompts[r], row) or (prompts[r], row)
        if has_messages or any(isinstance(part, list) for part in (prompts[r], *row)):
            prompts[r], row = as_message(prompts[r], "user"), [as_message(response, "assistant") for response in row]
        responses[r] = row
        if conversational:
            prompts[r], responses[r] = as_conversation(prompts[r], row)
        for column in SYSTEM & batch.keys():
            prompts[r] = with_system(prompts[r], batch[column][r])
    batch["prompt"], batch["responses"] = prompts, responses
    if scores is not None:
        batch["scores"] = [[None if s is None or math.isnan(s) else s for s in row] for row in scores]
    return batch


def lists_of_responses(
    cells: Cells, columns: dict[str, str], text_field: str | None, score_fields: Collection[str]
) -> tuple[list[Any], list[Any] | None]:
    """A list of responses per row, with a list of scores or ranks, or with ratings inside the responses."""
    lists = [read_list(row, columns["responses"], r) or [] for r, row in enumerate(cells["responses"])]
    responses = [[_response(item, text_field) for item in row] for row in lists]
    if "scores" in cells:
        scores = [read_scores(v, len(lists[r]), columns["scores"], r) for r, v in enumerate(cells["scores"])]
        return responses, scores
    if "ranks" in cells:
        ranks = (read_scores(v, len(lists[r]), columns["ranks"], r) for r, v in enumerate(cells["ranks"]))
        return responses, [[-rank for rank in row] for row in ranks]
    return responses, [_ratings(row, score_fields) for row in lists] if score_fields else None


def one_response(
    cells: Cells, columns: dict[str, str], text_field: str | None, score_fields: Collection[str]
) -> tuple[list[Any], list[Any] | None]:
    """One response per row, perhaps with a label or score."""
    scores = None
    if "scores" in cells:
        scores = [[read_number(value, columns["scores"], r)] for r, value in enumerate(cells["scores"])]
    return [[response] for response in cells["responses"]], scores


def two_scored_responses(
    cells: Cells, columns: dict[str, str], text_field: str | None, score_fields: Collection[str]
) -> tuple[list[Any], list[Any] | None]:
    """Two responses per row, each with a score."""
    scores = [
        [read_number(value, columns[field], r) for field, value in (("score_A", a), ("score_B", b))]
        for r, (a, b) in enumerate(zip(cells["score_A"], cells["score_B"], strict=True))
    ]
    return [list(pair) for pair in zip(cells["human_ref_A"], cells["human_ref_B"], strict=True)], scores


def _response(item: Any, text_field: str | None) -> Any:
    """The text or messages of an item of a list of responses."""
    if not isinstance(item, Mapping):
        return item
    return [item] if text_field is None else item.get(text_field)


def _ratings(items: list[Any], fields: Collection[str]) -> list[float | None]:
    """The scores of a prompt, all from the one field that has most of them."""
    best: list[float | None] = [None] * len(items)
    for field in fields:
        scores = [_rating(_mark(item, field), field) if isinstance(item, Mapping) else None for item in items]
        if best.count(None) > scores.count(None):
            best = scores
    return best


def _mark(item: Mapping[str, Any], field: str) -> Any:
    """The value of a field of a response, or its rating in the aspect of that name."""
    aspects = item.get("annotations")
    if field in item or not isinstance(aspects, Mapping):
        return item.get(field)
    aspect = aspects.get(field)
    return aspect.get("Rating") if isinstance(aspect, Mapping) else aspect


def _rating(value: Any, field: str) -> float | None:
    """A rating as a number, or `None` if it is missing or cannot be read; of several aspects the mean of the known."""
    if field == "annotations":
        aspects = value.values() if isinstance(value, Mapping) else ()
        ratings = [_rating(aspect.get("Rating"), "Rating") for aspect in aspects if isinstance(aspect, Mapping)]
        known = [rating for rating in ratings if rating is not None]
        return sum(known) / len(known) if known else None
    if isinstance(value, str):
        value = float(value) if NUMBER.fullmatch(value) else None
    if not is_number(value) or not math.isfinite(value):
        return None
    return -float(value) if field == "rank" else float(value)

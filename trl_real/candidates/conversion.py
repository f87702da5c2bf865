"""From any known layout of preference data to candidates or given pairs: `to_candidates`."""

import logging
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, IterableDataset, List, Value

from ..config import ON_SKIP
from ..core.columns import column_blocks, column_names, first_values
from ..core.messages import (
    MESSAGES,
    as_conversation,
    common_feature,
    is_list,
    is_text,
    item_feature,
    joint_features,
    prompts_differ,
)
from ..core.transform import Transform, map_rows
from .batch import read_candidates
from .eligibility import POLICIES, SKIP_REASONS
from .grouping import COUNTS, group_rows
from .layouts import LAYOUTS, find_layout, score_lists
from .readers import SCORE_FIELDS, TEXT_FIELDS, write_responses


logger = logging.getLogger(__name__)

OUTPUTS = ("prompt", "responses", "scores")


def to_candidates(
    dataset: Any,
    layout: str | None = None,
    group: bool | None = None,
    *,
    prompt_column: str | None = None,
    responses_column: str | None = None,
    scores_column: str | None = None,
    chosen_column: str | None = None,
    rejected_column: str | None = None,
    conversational: bool = False,
    on_skip: str = "drop",
) -> Any:
    r"""
    Bring a dataset in any known layout into the columns that [`real_select`] takes.

    Args:
        dataset ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or a dict of them):
            Preference data; the splits of a [`~datasets.DatasetDict`] are converted one by one.
        layout (`str`, *optional*):
            The layout, if the columns leave a doubt:

            - `"candidates"`: a prompt and a list of responses (text, messages, or dicts with a text and perhaps a score
              or rank), perhaps a list of scores or ranks.
            - `"ultrafeedback"`: `instruction` and `completions`, of which the score is the `overall_score`, the
              `fine-grained_score` or the mean of the ratings, whichever comes first among those that all have.
            - `"nectar"`: `prompt` and `answers` with a `rank`; the score is minus the rank.
            - `"shp"`: `history`, `human_ref_A`, `human_ref_B`, `score_A`, `score_B`, one row a pair of comments.
            - `"unpaired"`: a prompt, a `completion` and a `label` or score, one row a response.
            - `"preference"`: `chosen` and `rejected`, perhaps a prompt; without one the prompt is what both begin with.
            - `"hh"`: dialogues as text in `chosen` and `rejected`, split after the last `"\n\nAssistant:"` they share.
        group (`bool`, *optional*):
            Whether all rows of a prompt become one; in a stream, all adjacent ones. If `None`, those rows do that carry a
            score for each response (`"shp"`, `"unpaired"`), and pairs stay pairs with their human label. Of grouped pairs
            the score of a response is the number of pairs that it won.
        prompt_column, responses_column, scores_column, chosen_column, rejected_column (`str`, *optional*):
            Columns with other names than the usual. Where each row holds one response, name that and its score.
        conversational (`bool`, *optional*, defaults to `False`):
            Whether text becomes messages; dialogues become one message a turn.
        on_skip (`str`, *optional*, defaults to `"drop"`):
            What happens to a row that cannot be converted: `"drop"` it, with a warning that counts, `"keep"` it
            with a `skip_reason`, or `"error"`. A stream drops without a count: [`real_select`] counts nothing either,
            [`select_preferences`] counts both.

    Returns:
        As `dataset`: rows with `prompt`, `responses` and, if there are any, `scores`; or, from pairs that are not
        grouped, `prompt`, `chosen` and `rejected`. Every other column rides along; where rows are grouped as a list with
        one item a row, except for `tools`, `system`, `images` and the like, which rows of a prompt share.
        Grouped responses are distinct and not empty, in the order in which they first occur. Unless it is a stream,
        a column `scores` that is empty throughout is removed.

    Raises:
        `ValueError`: If the layout is not known or its columns are missing or in doubt, or, with `on_skip="error"`, a row
            cannot be converted.
        `TypeError`: If `dataset` is no dataset, or a cell holds something else than its layout says.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from trl_real import to_candidates

    >>> votes = Dataset.from_dict(
    ...     {
    ...         "prompt": ["Is tea a drink?", "Is tea a drink?", "Is tea a drink?"],
    ...         "completion": ["Yes.", "No.", "Yes, a hot one."],
    ...         "label": [True, False, True],
    ...     }
    ... )
    >>> to_candidates(votes)[0]
    {'prompt': 'Is tea a drink?', 'responses': ['Yes.', 'No.', 'Yes, a hot one.'], 'scores': [1.0, 0.0, 1.0]}
    ```
    """
    columns = {
        "prompt_column": prompt_column,
        "responses_column": responses_column,
        "scores_column": scores_column,
        "chosen_column": chosen_column,
        "rejected_column": rejected_column,
    }
    if isinstance(dataset, dict):
        splits = {}
        for split, rows in dataset.items():
            splits[split] = to_candidates(
                rows, layout, group, conversational=conversational, on_skip=on_skip, **columns
            )
        return type(dataset)(splits)
    named = {name.removesuffix("_column"): column for name, column in columns.items() if column is not None}
    converted = convert(dataset, layout, group, named, conversational, on_skip)
    if converted.skipped and on_skip == "drop":
        logger.warning(
            "`to_candidates` dropped %d of %d rows: %s.",
            converted.skipped.total(),
            converted.rows,
            "; ".join(f"in {n} {SKIP_REASONS[reason]} ({reason})" for reason, n in converted.skipped.most_common()),
        )
    for policy, n in converted.policies.items():
        logger.info("`to_candidates`, layout '%s': %d %s.", converted.layout, n, POLICIES[policy][1])
    return converted.dataset


class Converted(NamedTuple):
    """A converted dataset and what was done to it; of a stream nothing is counted."""

    dataset: Any
    layout: str
    given_pairs: bool
    rows: int
    skipped: Counter[str]
    policies: Counter[str]
    seconds: float = 0.0


def convert(
    dataset: Any,
    layout: str | None = None,
    group: bool | None = None,
    named: dict[str, str] | None = None,
    conversational: bool = False,
    on_skip: str = "drop",
) -> Converted:
    """[`to_candidates`] of one dataset, with counts."""
    start = time.perf_counter()
    if not isinstance(dataset, Dataset | IterableDataset):
        raise TypeError(f"`dataset` must be a `Dataset` or `IterableDataset`, got {type(dataset).__name__}.")
    if on_skip not in ON_SKIP:
        raise ValueError(f"`on_skip` must be one of {list(ON_SKIP)}, got {on_skip!r}.")
    if group not in (None, True, False):
        raise TypeError(f"`group` must be True, False or None, got {group!r}.")
    source = dataset.with_format(None)
    name, columns = find_layout(source, layout, named)
    pairs, grouped = LAYOUTS[name].pairs, LAYOUTS[name].grouped if group is None else group
    outputs = ("prompt", "chosen", "rejected", *(("responses", "scores") if grouped or not pairs else ()))
    clash = (set(outputs) & set(column_names(source) or [])) - set(columns.values())
    if clash:
        raise ValueError(
            f"The layout '{name}' is read from {sorted(columns.values())} here, and would replace the columns "
            f"{sorted(clash)}. Rename or remove them."
        )
    if grouped:  # they would not fit the responses of a group
        source = source.remove_columns(
            [c for c in ("embeddings", "responses_cut") if c in (column_names(source) or [])]
        )
    rows = (_convert_pairs if pairs else _convert_responses)(source, name, columns, grouped, conversational)
    if grouped:
        shared = [column for column in LAYOUTS[name].key if column in (column_names(rows) or [])]
        rows = group_rows(rows, ("prompt", *shared), wins=pairs)
    converted = _account(source, rows, name, pairs and not grouped, on_skip)
    return converted._replace(seconds=time.perf_counter() - start)


def _convert_pairs(dataset: Any, layout: str, columns: dict[str, str], grouped: bool, conversational: bool) -> Any:
    """Pairs with an explicit prompt or, to be grouped, as candidates of which one has won."""
    dataset = dataset.rename_columns({column: part for part, column in columns.items() if part != column})
    features = dataset.features
    if features is not None:
        parts = [features.get("prompt", features["chosen"]), features["chosen"], features["rejected"]]
        alike = all(map(is_text, parts)) or all(map(is_list, parts))
        if "prompt" in features and alike and not (grouped or conversational or _has_nulls(dataset)):
            return dataset  # as it should be
        prompt, sides = joint_features(parts[0], parts[1:])
        if conversational:
            prompt, *sides = (common_feature([MESSAGES, feature]) for feature in (prompt, *sides))
        read = {"prompt": prompt, "chosen": sides[0], "rejected": sides[1]}
        if grouped:
            read = {"prompt": prompt, "responses": List(common_feature(sides)), "scores": List(Value("float64"))}
        others = {name: feature for name, feature in features.items() if name not in ("prompt", "chosen", "rejected")}
        features = Features(read | others | {"skip_reason": Value("string"), COUNTS[0]: Value("int64")})
    return map_rows(
        dataset,
        _write_pairs,
        features,
        desc="Reading pairs",
        fn_kwargs={"grouped": grouped, "conversational": conversational},
        remove_columns=["chosen", "rejected"] if grouped else None,
    )


def _has_nulls(dataset: Any) -> bool:
    """Whether a pair has no prompt or lacks a side; of a stream nobody knows."""
    if isinstance(dataset, IterableDataset):
        return True
    columns = ("prompt", "chosen", "rejected")
    return any(block.null_count for column in columns for block in column_blocks(dataset, column))


@Transform
def _write_pairs(batch: Any, grouped: bool, conversational: bool) -> Any:
    candidates = read_candidates(batch, "to_candidates")
    reasons, differing = candidates.reasons, []
    prompts = candidates.prompts
    pairs = [list(pair) for pair in zip(candidates.responses[::2], candidates.responses[1::2], strict=True)]
    for r, (prompt, pair) in enumerate(zip(prompts, pairs, strict=True)):
        if None in pair:
            reasons[r] = "missing_response"
        elif prompt is None:
            reasons[r] = reasons[r] or "missing_prompt"
        differing.append(int(prompts_differ(prompt, pair)))
        if conversational:
            prompts[r], pairs[r] = as_conversation(prompt, pair)
    batch["prompt"] = prompts
    if grouped:
        batch["responses"], batch["scores"] = pairs, [[1.0, 0.0]] * len(pairs)
    else:
        batch["chosen"], batch["rejected"] = ([pair[side] for pair in pairs] for side in (0, 1))
    batch["skip_reason"], batch[COUNTS[0]] = reasons, differing
    return batch


def _convert_responses(dataset: Any, layout: str, columns: dict[str, str], grouped: bool, conversational: bool) -> Any:
    """Candidates: `prompt`, `responses` and perhaps `scores`."""
    features, fields = dataset.features, list[str]()
    single = {"shp": ["human_ref_A", "human_ref_B"], "unpaired": [columns.get("responses", "")]}.get(layout)
    if single:  # columns that hold one response
        item = features and common_feature([features[column] for column in single])
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
    rated = bool({*SCORE_FIELDS} & {*fields})
    if not (single or rated or columns.keys() & {"scores", "ranks"}):
        _warn_of_unused_scores(dataset, columns)
    if features is not None:
        usual = all(part == column for part, column in columns.items()) and columns.keys() <= {*OUTPUTS}
        lists = all(is_list(features[column]) for column in {"responses", "scores"} & {*columns.values()})
        if layout == "candidates" and usual and lists and not (fields or conversational or grouped):
            return dataset  # as they should be
        if text_field:
            item = item[text_field] if isinstance(item, dict) else None
        elif fields:
            item = List(item)
        prompt = common_feature([features[columns["prompt"]]])
        if conversational:
            prompt, item = (common_feature([MESSAGES, feature]) for feature in (prompt, item))
        read = {"prompt": prompt, "responses": List(item)}
        if rated or columns.keys() & {"scores", "ranks", "score_A"}:
            read["scores"] = List(Value("float64"))
        others = {name: feature for name, feature in features.items() if name not in columns.values()}
        features = Features(read | others)
    return map_rows(
        dataset,
        write_responses,
        features,
        desc="Reading responses",
        fn_kwargs={
            "layout": layout,
            "columns": columns,
            "text_field": text_field,
            "rated": rated,
            "conversational": conversational,
        },
        remove_columns=[column for column in columns.values() if column not in OUTPUTS] or None,
    )


def _warn_of_unused_scores(dataset: Any, columns: dict[str, str]) -> None:
    """Say which columns look like scores where none were recognised, before people are asked for labels."""
    others = [name for name in column_names(dataset) or [] if name not in columns.values()]
    if found := score_lists(dataset, columns["responses"], others):
        logger.warning(
            "No scores are read, though %s one number a response. If these are scores, higher is better, pass "
            "`scores_column=%r` to `to_candidates`, or `--scores_column %s` on the command line.",
            f"the columns {found} hold" if len(found) > 1 else f"the column `{found[0]}` holds",
            found[0],
            found[0],
        )


def _fields(dataset: Any, column: str) -> list[str]:
    """The fields of the dicts in a column of a stream, from its first rows."""
    rows = [row for row in first_values(dataset, column) if isinstance(row, list)]
    return list(dict.fromkeys(field for row in rows for item in row if isinstance(item, Mapping) for field in item))


def _account(source: Any, rows: Any, layout: str, given_pairs: bool, on_skip: str) -> Converted:
    """Count what was done, and drop what could not be converted."""
    names = column_names(rows) or []
    counted = [name for name in COUNTS if name in names]
    if isinstance(source, IterableDataset):
        rows = rows.remove_columns(counted) if counted else rows
        if "skip_reason" in names and on_skip != "keep":
            rows = rows.filter(_is_converted, input_columns=["skip_reason"], fn_kwargs={"on_skip": on_skip})
            rows = rows.remove_columns(["skip_reason"])
        return Converted(rows, layout, given_pairs, 0, Counter(), Counter())
    table = rows.with_format("arrow")
    policies = Counter({name[1:]: pc.sum(table[name][:]).as_py() or 0 for name in counted})
    policies["grouped_rows"] = len(source) - len(rows)
    rows = rows.remove_columns(counted)
    skipped: Counter[str] = Counter()
    if "skip_reason" in names:
        reasons = [reason if isinstance(reason, str) else None for reason in table["skip_reason"][:].to_pylist()]
        skipped.update(reason for reason in reasons if reason in SKIP_REASONS)
        if on_skip == "error":
            for reason in reasons:
                _is_converted(reason, on_skip)
        if on_skip != "keep":
            kept = np.flatnonzero([reason not in SKIP_REASONS for reason in reasons])
            rows = rows.select(kept) if skipped else rows
            if "skip_reason" not in source.column_names:
                rows = rows.remove_columns("skip_reason")
    if "scores" in rows.column_names and _has_no_score(rows):
        rows = rows.remove_columns("scores")
    return Converted(rows, layout, given_pairs, len(source), skipped, +policies)


def _is_converted(reason: str | None, on_skip: str) -> bool:
    if not isinstance(reason, str):  # a column of the user's own
        return True
    if on_skip == "error" and reason in SKIP_REASONS:
        raise ValueError(
            f"A row cannot be converted: {SKIP_REASONS[reason]} ({reason}). Mend it, or drop such rows with `on_skip='drop'`."
        )
    return reason not in SKIP_REASONS


def _has_no_score(dataset: Dataset) -> bool:
    """Whether a column `scores` is null or NaN throughout, so that the data is unlabelled."""
    for table in dataset.select_columns(["scores"]).with_format("arrow").iter(batch_size=10_000):
        scores = table["scores"].combine_chunks()
        if pa.types.is_struct(scores.type):
            return False
        if pa.types.is_nested(scores.type):
            scores = scores.flatten()
        known = scores.drop_null()
        if len(known) and not (pa.types.is_floating(known.type) and pc.all(pc.is_nan(known)).as_py()):
            return False
    return len(dataset) > 0

"""Convert any known layout of preference data to candidates or given pairs: `to_candidates`."""

import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset

from ..config import ON_SKIP
from ..core.columns import column_names
from .batch import PAIR_SCORES
from .eligibility import POLICIES, SKIP_REASONS
from .grouping import COUNTS, group_rows
from .layouts import LAYOUTS, find_layout
from .options import ReadOptions
from .prompt_parts import join_input, warn_of_system
from .responses import find_score_field


logger = logging.getLogger(__name__)

# What `embed_responses` adds.
EMBEDDED = ("embeddings", "responses_cut", "tokens_cut")


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
    left_column: str | None = None,
    right_column: str | None = None,
    vote_column: str | None = None,
    votes: Mapping[Any, str] | None = None,
    conversational: bool = False,
    on_skip: str = "drop",
) -> Any:
    r"""
    Convert a dataset in any known layout to the columns that [`real_select`] expects.

    Args:
        dataset ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or a dict of them):
            Preference data. The splits of a [`~datasets.DatasetDict`] are converted one by one.
        layout (`str`, *optional*):
            The layout, if the columns are ambiguous:

            - `"candidates"`: a prompt and a list of responses (text, messages, or dicts with a text and, optionally, a score or
              rank), optionally with a list of scores or ranks.
            - `"ultrafeedback"`: `instruction` and `completions`. The score is the `overall_score`, the `fine-grained_score` or
              the mean of the ratings: the first of these that all responses have.
            - `"nectar"`: `prompt` and `answers` with a `rank`. The score is minus the rank.
            - `"shp"`: `history`, `human_ref_A`, `human_ref_B`, `score_A` and `score_B`, one row per pair of comments.
            - `"unpaired"`: a prompt, a `completion` and a `label` or score, one row per response.
            - `"votes"`: two responses in separate columns and a vote, as in PKU-SafeRLHF and Chatbot Arena (for example
              `conversation_a`, `conversation_b` and `winner`). A tie gives no pair.
            - `"helpsteer3"`: `context`, `response1`, `response2` and `overall_preference`, which is negative if the first is better.
            - `"webgpt"`: `answer_0`, `answer_1`, `score_0` and `score_1`. The higher score wins.
            - `"summaries"`: `info`, two `summaries` and `choice`, as in OpenAI's Summarize from Feedback.
            - `"openai"`: `input`, `preferred_output` and `non_preferred_output`, the format of OpenAI's preference fine-tuning.
            - `"preference"`: `chosen` and `rejected`, optionally with a prompt. Without a prompt, it is the text or the
              messages that both sides begin with.
            - `"hh"`: dialogues as text in `chosen` and `rejected`, split after the last `"\n\nAssistant:"` that both share.
        group (`bool`, *optional*):
            Whether to merge all rows of a prompt into one row; in a stream, only adjacent rows. If `None`, rows with a score
            for each response (`"shp"`, `"unpaired"`) are merged, and pairs stay pairs with their human label. If pairs are
            merged, the score of a response is the number of pairs that it won.
        prompt_column, responses_column, scores_column, chosen_column, rejected_column (`str`, *optional*):
            The names of columns that are not recognized. If each row holds one response, pass its column as
            `responses_column` and that of its score as `scores_column`. If the responses are dicts, `scores_column` may be one
            of their fields, or one of the aspects in their `annotations`.
        left_column, right_column, vote_column (`str`, *optional*):
            For the layout `"votes"`: the columns of the two responses and of the vote.
        votes (`dict[Any, str]`, *optional*):
            The meaning of each vote: `"left"`, `"right"` or `"tie"`. If `None`, it is recognized from the values: a word for it,
            `"model_a"` next to `response_a`, or 0 and 1 next to `response_0` and `response_1`.
        conversational (`bool`, *optional*, defaults to `False`):
            Whether to convert text to messages. Dialogues as text become one message per turn.
        on_skip (`str`, *optional*, defaults to `"drop"`):
            What to do with a row that cannot be converted: `"drop"` it, with a warning that counts such rows, `"keep"` it with
            a `skip_reason`, or raise an `"error"`. In a stream, rows are dropped without a count. To count the rows that the
            conversion and the selection skip, use [`select_preferences`].

    Returns:
        The same type as `dataset`. Rows have `prompt`, `responses` and, if there are any, `scores`. Pairs that are not merged
        have `prompt`, `chosen` and `rejected`. Other columns are kept. If rows are merged, other columns become lists with one
        item per row, except for columns such as `tools`, `system` and `images`, which the rows of a prompt share. Merged
        responses are distinct and not empty, in the order of their first occurrence. A column `scores` without any score is
        removed, except in a stream.

    Raises:
        `ValueError`: If the layout is unknown, a column is missing or ambiguous, or, with `on_skip="error"`, a row cannot be
            converted.
        `TypeError`: If `dataset` is not a dataset, or a value does not fit the layout.

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
        "left_column": left_column,
        "right_column": right_column,
        "vote_column": vote_column,
    }
    if isinstance(dataset, dict):
        splits = {}
        for split, rows in dataset.items():
            splits[split] = to_candidates(
                rows, layout, group, votes=votes, conversational=conversational, on_skip=on_skip, **columns
            )
        return type(dataset)(splits)
    named = {name.removesuffix("_column"): column for name, column in columns.items() if column is not None}
    converted = convert(dataset, layout, group, named, conversational, on_skip, votes)
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


@dataclass
class Converted:
    """
    A converted dataset with the counts of the conversion.

    Attributes:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]): The rows, without a format.
        layout (`str`): The layout of the source.
        rows (`int`): The number of rows of the source; 0 for a stream, which is not counted.
        skipped (`Counter[str]`): The number of rows that could not be converted, by reason.
        policies (`Counter[str]`): How often each policy was applied to rows and responses.
        seconds (`float`): The time of the conversion.
    """

    dataset: Any
    layout: str
    rows: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    policies: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def columns(self) -> list[str]:
        """The columns of the rows."""
        return column_names(self.dataset) or []

    @property
    def labeled(self) -> bool:
        """Whether the data says which response of a pair is better."""
        return "scores" in self.columns

    @property
    def scored(self) -> bool:
        """Whether there are scores, between which a gap may be asked for."""
        return "scores" in self.columns


class ConvertedCandidates(Converted):
    """Prompts with any number of responses: `prompt`, `responses` and perhaps `scores`."""


class ConvertedPairs(Converted):
    """Given pairs: `prompt`, `chosen` and `rejected`."""

    labeled = True

    @property
    def scored(self) -> bool:
        return {*PAIR_SCORES} <= {*self.columns}


def convert(
    dataset: Any,
    layout: str | None = None,
    group: bool | None = None,
    named: dict[str, str] | None = None,
    conversational: bool = False,
    on_skip: str = "drop",
    votes: Mapping[Any, str] | None = None,
) -> Converted:
    """[`to_candidates`] of one dataset, with counts."""
    start = time.perf_counter()
    if not isinstance(dataset, Dataset | IterableDataset):
        raise TypeError(f"`dataset` must be a `Dataset` or `IterableDataset`, got {type(dataset).__name__}.")
    if on_skip not in ON_SKIP:
        raise ValueError(f"`on_skip` must be one of {list(ON_SKIP)}, got {on_skip!r}.")
    if group not in (None, True, False):
        raise TypeError(f"`group` must be True, False or None, got {group!r}.")
    source, named, score_field = dataset.with_format(None), dict(named or {}), None
    if "scores" in named and find_score_field(source, named["scores"]):
        score_field = named.pop("scores")
    name, columns = find_layout(source, layout, named)
    found = LAYOUTS[name]
    grouped = found.grouped if group is None else group
    pairs = found.pairs
    outputs = ("prompt", "chosen", "rejected", *(("responses", "scores") if grouped or not pairs else ()))
    clash = (set(outputs) & set(column_names(source) or [])) - set(columns.values())
    if clash:
        raise ValueError(
            f"The layout '{name}' is read from {sorted(columns.values())} here, and would replace the columns "
            f"{sorted(clash)}. Rename or remove them."
        )
    if grouped:  # they would not fit the responses of a group
        source = source.remove_columns([c for c in EMBEDDED if c in (column_names(source) or [])])
    warn_of_system(source, columns, conversational)
    joined = join_input(source, columns)
    rows = found.read(joined, found, columns, ReadOptions(grouped, conversational, votes, score_field))
    if grouped:
        shared = [column for column in found.key if column in (column_names(rows) or [])]
        rows = group_rows(rows, ("prompt", *shared), wins=pairs)
    converted = (ConvertedPairs if pairs and not grouped else ConvertedCandidates)(rows, name)
    _count_and_drop(converted, source, on_skip)
    converted.seconds = time.perf_counter() - start
    return converted


def _count_and_drop(converted: Converted, source: Any, on_skip: str) -> None:
    """Count what was done, and drop what could not be converted."""
    rows, names = converted.dataset, converted.columns
    counted = [name for name in COUNTS if name in names]
    if isinstance(source, IterableDataset):
        rows = rows.remove_columns(counted) if counted else rows
        if "skip_reason" in names and on_skip != "keep":
            rows = rows.filter(_is_converted, input_columns=["skip_reason"], fn_kwargs={"on_skip": on_skip})
            rows = rows.remove_columns(["skip_reason"])
        converted.dataset = rows
        return
    table = rows.with_format("arrow")
    converted.rows = len(source)
    converted.policies.update({name[1:]: pc.sum(table[name][:]).as_py() or 0 for name in counted})
    converted.policies["grouped_rows"] = len(source) - len(rows)
    converted.policies = +converted.policies
    rows = rows.remove_columns(counted)
    if "skip_reason" in names:
        reasons = [reason if isinstance(reason, str) else None for reason in table["skip_reason"][:].to_pylist()]
        converted.skipped.update(reason for reason in reasons if reason in SKIP_REASONS)
        if on_skip == "error":
            for reason in reasons:
                _is_converted(reason, on_skip)
        if on_skip != "keep":
            kept = np.flatnonzero([reason not in SKIP_REASONS for reason in reasons])
            rows = rows.select(kept) if converted.skipped else rows
            if "skip_reason" not in source.column_names:
                rows = rows.remove_columns("skip_reason")
    if "scores" in rows.column_names and _has_no_score(rows):
        rows = rows.remove_columns("scores")
    converted.dataset = rows


def _is_converted(reason: str | None, on_skip: str) -> bool:
    if not isinstance(reason, str):  # a column of the user's own
        return True
    if on_skip == "error" and reason in SKIP_REASONS:
        raise ValueError(
            f"A row cannot be converted: {SKIP_REASONS[reason]} ({reason}). Correct it, or drop such rows with `on_skip='drop'`."
        )
    return reason not in SKIP_REASONS


def _has_no_score(dataset: Dataset) -> bool:
    """Whether a column `scores` is null or NaN throughout, so that the data is unlabeled."""
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

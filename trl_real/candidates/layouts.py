"""The layouts of preference data: how each is recognized, and the function that reads it."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
from datasets import Dataset

from ..core.columns import column_blocks, column_names, first_values, one_array
from ..core.messages import HUMAN
from .pairs import read_inputs, read_pairs
from .responses import (
    Reader,
    lists_of_responses,
    one_response,
    read_responses,
    score_lists,
    two_scored_responses,
)
from .votes import STEMS, VOTE, names_in_twos, read_votes


# The column names that are recognized for each field, the usual one first.
PROMPT = ("prompt", "instruction", "question", "query")
RESPONSES = ("responses", "completions", "answers", "candidates", "generations")
SCORES = ("scores", "ratings", "rewards")
RESPONSE = ("completion", "response", "answer", "generation")
SCORE = ("label", "score", "rating", "reward")


# Columns that the rows of a prompt share, besides the prompt.
SHARED = ("tools", "chat_template_kwargs", "system", "system_prompt", "image", "images")


@dataclass(frozen=True)
class Layout:
    """
    How a layout is recognized, and how its rows are read.

    Attributes:
        read (`Callable`): Makes candidates or given pairs of a dataset, this layout, the column of each field, and
            [`ReadOptions`].
        required (`dict[str, tuple[str, ...]]`): The fields that a row must have, and the columns that may hold each.
        optional (`dict[str, tuple[str, ...]]`): The fields that it may have.
        fits (`Callable`): Whether the first value of its responses, or of `chosen`, and the columns of the dataset are those of
            this layout.
        read_cells (`Callable`, *optional*): What `read_responses` reads a batch with.
        single (`tuple[str, ...]`): The fields that hold one response each, where there is no list of them.
        pairs (`bool`): Whether rows are given pairs.
        grouped (`bool`): Whether rows are grouped by prompt, because each carries a score for each of its responses.
        key (`tuple[str, ...]`): What the rows of a prompt have in common beside the prompt.
        variants (`tuple`): Other columns that may hold the required fields, where these belong together.
        scale (`bool`): Whether a vote is a number below 0 for the left response and above 0 for the right one.
    """

    read: Callable[..., Any]
    required: dict[str, tuple[str, ...]]
    optional: dict[str, tuple[str, ...]]
    fits: Callable[[Any, Collection[str]], bool] = lambda value, columns: True
    read_cells: Reader = lists_of_responses
    single: tuple[str, ...] = ()
    pairs: bool = False
    grouped: bool = False
    key: tuple[str, ...] = SHARED
    variants: tuple[dict[str, tuple[str, ...]], ...] = ()
    scale: bool = False

    @property
    def fields(self) -> dict[str, tuple[str, ...]]:
        """All fields of a row."""
        return self.required | self.optional

    def options(self, columns: Collection[str], named: dict[str, str]) -> dict[str, list[str]]:
        """The columns of a dataset that may hold each field, in the first of the variants that it has."""
        for required in (self.required, *self.variants):
            fields = self.optional | required
            found = {f: [named[f]] if f in named else [c for c in fields[f] if c in columns] for f in self.fields}
            if all(found[f] for f in required):
                break
        return found


def _is_dialogue(value: Any, columns: Collection[str]) -> bool:
    return "prompt" not in columns and isinstance(value, str) and value.startswith(HUMAN)


def _are_rated(value: Any, columns: Collection[str]) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _is_list(value: Any, columns: Collection[str]) -> bool:
    return not isinstance(value, str)


VOTED = tuple({**sides, "vote": VOTE} for sides in names_in_twos(("{side}", STEMS)))
SCORED = tuple(names_in_twos(("{side}", STEMS), ("{side}_score", ("score", "rating", "reward", "winner_model"))))
SIDES: dict[str, tuple[str, ...]] = {"chosen": ("chosen",), "rejected": ("rejected",)}
# In the order in which they are looked for.
LAYOUTS = {
    "hh": Layout(read_pairs, SIDES, {}, _is_dialogue, pairs=True),
    "preference": Layout(read_pairs, SIDES, {"prompt": PROMPT}, pairs=True),
    "shp": Layout(
        read_responses,
        {"prompt": ("history",), **{name: (name,) for name in ("human_ref_A", "human_ref_B", "score_A", "score_B")}},
        {"labels": ("labels",)},
        read_cells=two_scored_responses,
        single=("human_ref_A", "human_ref_B"),
        grouped=True,
        key=("post_id", "domain"),
    ),
    "openai": Layout(
        read_inputs,
        {"prompt": ("input",), "chosen": ("preferred_output",), "rejected": ("non_preferred_output",)},
        {},
        pairs=True,
    ),
    "helpsteer3": Layout(
        read_votes,
        {"left": ("response1",), "right": ("response2",), "vote": ("overall_preference",)},
        {"prompt": ("context", *PROMPT)},
        pairs=True,
        scale=True,
    ),
    "votes": Layout(read_votes, VOTED[0], {"prompt": PROMPT}, variants=VOTED, pairs=True),
    "webgpt": Layout(read_votes, SCORED[0], {"prompt": PROMPT}, variants=SCORED, pairs=True),
    "summaries": Layout(
        read_votes, {"prompt": ("info",), "responses": ("summaries",), "vote": ("choice",)}, {}, pairs=True
    ),
    "ultrafeedback": Layout(
        read_responses, {"prompt": ("instruction",), "responses": ("completions",)}, {}, _are_rated
    ),
    "nectar": Layout(read_responses, {"prompt": ("prompt",), "responses": ("answers",)}, {}, _are_rated),
    "candidates": Layout(
        read_responses,
        {"prompt": PROMPT, "responses": RESPONSES},
        {"scores": SCORES, "ranks": ("ranks", "rank")},
        _is_list,
    ),
    "unpaired": Layout(
        read_responses,
        {"prompt": PROMPT, "responses": RESPONSE},
        {"scores": SCORE},
        read_cells=one_response,
        single=("responses",),
        grouped=True,
    ),
}


class Found(NamedTuple):
    """A layout as a dataset has it: its name, and the column of each field."""

    layout: str
    columns: dict[str, str]


def find_layout(dataset: Any, layout: str | None = None, named: dict[str, str] | None = None) -> Found:
    """
    Recognize the layout of a dataset by its columns and, if these fit several layouts, by its first rows.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]): The rows.
        layout (`str`, *optional*): The layout, if the user named it.
        named (`dict[str, str]`, *optional*): The columns that the user named, by field.

    Raises:
        `ValueError`: If no layout fits, a field may be in several columns, or text is not UTF-8.
    """
    columns, named = column_names(dataset) or [], named or {}
    if isinstance(dataset, Dataset):
        check_utf8(dataset)
    if layout is not None and layout not in list(LAYOUTS):
        raise ValueError(f"`layout` must be one of {list(LAYOUTS)}, got {layout!r}.")
    for field, column in named.items():
        if column not in columns:
            raise ValueError(f"`{field}_column={column!r}` is not a column. Found: {sorted(columns)}.")
    misfit = None
    for name, known in LAYOUTS.items() if layout is None else [(layout, LAYOUTS[layout])]:
        if not set(named) <= set(known.fields):
            continue
        options = known.options(columns, named)
        if not (known.single or known.pairs) and options["responses"] and not any(map(options.get, known.optional)):
            options["scores"] = score_lists(dataset, options["responses"][0], [c for c in SCORE if c in columns], True)
        if all(options[field] for field in known.required):
            found = Found(name, {f: _only(f, options[f], known) for f in known.fields if options[f]})
            if layout is not None or _rows_fit(dataset, found):
                return found
            misfit = misfit or found
    if misfit is not None:  # whose reader tells what is wrong with the rows
        return misfit
    expected = "; ".join(
        ", ".join(f"`{names[0]}`" for names in LAYOUTS[name].required.values()) + f" ('{name}')"
        for name in (reversed(LAYOUTS) if layout is None else [layout])
    )
    raise ValueError(
        f"The columns fit no known layout. Found: {sorted(columns)}. Expected: {expected}. If your columns have other names, "
        "pass them, for example with `to_candidates(dataset, prompt_column='question', responses_column='replies', "
        "scores_column='votes')` or, for pairs, `chosen_column='better', rejected_column='worse'`; on the command line with "
        "`--prompt_column question` and so on."
    )


def _only(field: str, found: list[str], layout: Layout) -> str:
    if len(found) > 1 and not layout.variants and found[0] != layout.fields[field][0]:
        raise ValueError(
            f"`{field}` may be any of the columns {found}. Say which one: `{field}_column={found[0]!r}` in `to_candidates`, or "
            f"`--{field}_column {found[0]}` on the command line."
        )
    return found[0]


def _rows_fit(dataset: Any, found: Found) -> bool:
    """Whether the first rows are what the layout takes its columns for."""
    column = found.columns.get("responses") or found.columns.get("chosen")
    if column is None:
        return True
    value = next((value for value in first_values(dataset, column) if value is not None), None)
    return LAYOUTS[found.layout].fits(value, column_names(dataset) or [])


def check_utf8(dataset: Dataset) -> None:
    """Raise unless all text is UTF-8: the JSON reader of PyArrow takes any bytes, and what reads them later may crash."""
    for column, field in zip(dataset.column_names, dataset.features.arrow_schema, strict=True):
        if "string" not in str(field.type):
            continue
        start = 0
        for block in column_blocks(dataset, column):
            try:
                for texts in _texts(one_array(block)):
                    texts.validate(full=True)
            except pa.ArrowInvalid as error:
                for r, cell in enumerate(block, start):
                    try:
                        cell.as_py()
                    except UnicodeDecodeError as cause:
                        raise ValueError(
                            f"Column `{column}`, row {r}: found text that is not UTF-8: byte 0x{cause.object[cause.start]:02x} "
                            f"({cause.reason}). Convert the file that it comes from to UTF-8."
                        ) from error
                raise
            start += len(block)


def _texts(array: Any) -> Iterator[pa.Array]:
    """The arrays of text in an array, of a slice only what it has: to validate a slice of lists is to validate all."""
    if isinstance(array, pa.ChunkedArray):
        for chunk in array.chunks:
            yield from _texts(chunk)
    elif isinstance(array, pa.ExtensionArray):
        yield from _texts(array.storage)
    elif isinstance(array, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        yield from _texts(array.flatten())
    elif isinstance(array, pa.StructArray):
        for field in array.flatten():
            yield from _texts(field)
    elif isinstance(array, pa.StringArray | pa.LargeStringArray):
        yield array

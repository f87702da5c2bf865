"""The layouts that preference data comes in: how each is recognised."""

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import pyarrow as pa
from datasets import Dataset

from ..core.columns import column_blocks, column_names, first_values
from ..core.messages import HUMAN, is_list


# The names under which a part of a row may come, the usual one first.
PROMPT = ("prompt", "instruction", "question", "query")
RESPONSES = ("responses", "completions", "answers", "candidates", "generations")
SCORES = ("scores", "ratings", "rewards")
RESPONSE = ("completion", "response", "answer", "generation")
SCORE = ("label", "score", "rating", "reward")


@dataclass(frozen=True)
class Layout:
    """
    How a layout is recognised, and what its rows are.

    Attributes:
        parts (`dict[str, tuple[str, ...]]`): What a row must have, and the columns that each part may be in.
        optional (`dict[str, tuple[str, ...]]`): What it may have.
        pairs (`bool`): Whether rows are given pairs.
        grouped (`bool`): Whether rows are grouped by prompt, because each carries a score for each of its responses.
        key (`tuple[str, ...]`): What the rows of a prompt have in common beside the prompt.
    """

    parts: dict[str, tuple[str, ...]]
    optional: dict[str, tuple[str, ...]]
    pairs: bool = False
    grouped: bool = False
    key: tuple[str, ...] = ("tools", "chat_template_kwargs", "system", "system_prompt", "image", "images")


# In the order in which they are looked for.
LAYOUTS = {
    "hh": Layout({"chosen": ("chosen",), "rejected": ("rejected",)}, {}, pairs=True),
    "preference": Layout({"chosen": ("chosen",), "rejected": ("rejected",)}, {"prompt": PROMPT}, pairs=True),
    "shp": Layout(
        {"prompt": ("history",), **{name: (name,) for name in ("human_ref_A", "human_ref_B", "score_A", "score_B")}},
        {"labels": ("labels",)},
        grouped=True,
        key=("post_id", "domain"),
    ),
    "ultrafeedback": Layout({"prompt": ("instruction",), "responses": ("completions",)}, {}),
    "nectar": Layout({"prompt": ("prompt",), "responses": ("answers",)}, {}),
    "candidates": Layout({"prompt": PROMPT, "responses": RESPONSES}, {"scores": SCORES, "ranks": ("ranks", "rank")}),
    "unpaired": Layout({"prompt": PROMPT, "responses": RESPONSE}, {"scores": SCORE}, grouped=True),
}


class Found(NamedTuple):
    """A layout as a dataset has it: its name, and the column of each part."""

    layout: str
    columns: dict[str, str]


def find_layout(dataset: Any, layout: str | None = None, named: dict[str, str] | None = None) -> Found:
    """
    Recognise the layout of a dataset by its columns and, where these fit several, by its first rows.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]): The rows.
        layout (`str`, *optional*): The layout, if the user named it.
        named (`dict[str, str]`, *optional*): The columns that the user named, by part.

    Raises:
        `ValueError`: If no layout fits, a part may be in several columns, or text is not UTF-8.
    """
    columns, named = column_names(dataset) or [], named or {}
    if isinstance(dataset, Dataset):
        check_utf8(dataset)
    if layout is not None and layout not in list(LAYOUTS):
        raise ValueError(f"`layout` must be one of {list(LAYOUTS)}, got {layout!r}.")
    for part, column in named.items():
        if column not in columns:
            raise ValueError(f"`{part}_column={column!r}` is not a column. Found: {sorted(columns)}.")
    misfit = None
    for name in LAYOUTS if layout is None else [layout]:
        parts = LAYOUTS[name].parts | LAYOUTS[name].optional
        if not set(named) <= set(parts):
            continue
        options = {
            part: [named[part]] if part in named else [c for c in names if c in columns]
            for part, names in parts.items()
        }
        if name == "candidates" and options["responses"] and not (options["scores"] or options["ranks"]):
            options["scores"] = score_lists(dataset, options["responses"][0], [c for c in SCORE if c in columns])
        if all(options[part] for part in LAYOUTS[name].parts):
            found = Found(name, {part: _only(part, options[part], parts[part]) for part in parts if options[part]})
            if layout is not None or _rows_fit(dataset, found):
                return found
            misfit = misfit or found
    if misfit is not None:  # whose reader tells what is wrong with the rows
        return misfit
    expected = "; ".join(
        ", ".join(f"`{names[0]}`" for names in LAYOUTS[name].parts.values()) + f" ('{name}')"
        for name in (reversed(LAYOUTS) if layout is None else [layout])
    )
    raise ValueError(
        f"The columns fit no known layout. Found: {sorted(columns)}. Expected: {expected}. Name columns that have other "
        "names, for example with `to_candidates(dataset, prompt_column='question', responses_column='replies', "
        "scores_column='votes')` or, of pairs, `chosen_column='better', rejected_column='worse'`; on the command line with "
        "`--prompt_column question` and so on."
    )


def _only(part: str, found: list[str], usual: Collection[str]) -> str:
    if len(found) > 1 and found[0] != next(iter(usual)):
        raise ValueError(
            f"`{part}` may be any of the columns {found}. Name it: `{part}_column={found[0]!r}` of `to_candidates`, or "
            f"`--{part}_column {found[0]}` on the command line."
        )
    return found[0]


def _rows_fit(dataset: Any, found: Found) -> bool:
    """Whether the first rows are what the layout takes its columns for."""
    part = "responses" if "responses" in found.columns else "chosen"
    if part not in found.columns:
        return True
    value = next((value for value in first_values(dataset, found.columns[part]) if value is not None), None)
    if found.layout == "hh":  # its rows have no prompt, a preference may have one
        return "prompt" not in (column_names(dataset) or []) and isinstance(value, str) and value.startswith(HUMAN)
    if found.layout == "unpaired":
        return True
    if found.layout in ("ultrafeedback", "nectar"):
        return isinstance(value, list) and all(isinstance(item, dict) for item in value)
    return part == "chosen" or not isinstance(value, str)


def score_lists(dataset: Any, responses: str, columns: list[str]) -> list[str]:
    """Those of `columns` that hold a list of numbers in the first rows, one number a response."""
    features = dataset.features
    columns = [column for column in columns if features is None or is_list(features[column])]
    if not columns:
        return []
    rows = list(itertools.islice(dataset.select_columns([responses, *columns]), 100))
    found = []
    for column in columns:
        known = [row for row in rows if row.get(column) is not None]
        if known and all(_is_one_a_response(row[column], row.get(responses)) for row in known):
            found.append(column)
    return found


def _is_one_a_response(value: Any, responses: Any) -> bool:
    if not (isinstance(value, list) and isinstance(responses, list) and len(value) == len(responses)):
        return False
    return all(item is None or (isinstance(item, Real) and not isinstance(item, bool)) for item in value)


def check_utf8(dataset: Dataset) -> None:
    """Raise unless all text is UTF-8: the JSON reader of PyArrow takes any bytes, and what reads them later may crash."""
    for column, field in zip(dataset.column_names, dataset.features.arrow_schema, strict=True):
        if "string" not in str(field.type):
            continue
        start = 0
        for block in column_blocks(dataset, column):
            try:
                for texts in _texts(block.combine_chunks()):
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

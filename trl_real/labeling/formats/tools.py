"""The table of the formats in which tasks go to annotators and labels come back: `FORMATS`."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from . import argilla, label_studio, prodigy, spreadsheet
from .entries import Entry


Writer = Callable[[Iterable[Mapping[str, Any]]], Iterator[str]]


class Format(NamedTuple):
    """
    A format of tasks and labels.

    Attributes:
        title (`str`): The name of the tool, for messages.
        suffix (`str`): The ending of a file of tasks.
        write (`Callable`): Writes tasks as pieces of the text of a file.
        fits (`Callable`, *optional*): Whether a record is in the format. `None` if the records are lines of a label log.
        read (`Callable`, *optional*): Turns the records of an export into lines of a label log.
        config (`str`, *optional*): The labeling interface as XML, which is written next to the tasks.
    """

    title: str
    suffix: str
    write: Writer
    fits: Callable[[Mapping[str, Any]], bool] | None = None
    read: Callable[[Iterable[Entry]], Iterator[Entry]] | None = None
    config: str | None = None


def _write_lines(tasks: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for task in tasks:  # pandas would round the numbers in tool calls
        yield json.dumps(task, ensure_ascii=False, default=str) + "\n"


# The first format that fits the first record is used.
FORMATS = {
    "jsonl": Format("JSON Lines", ".jsonl", _write_lines),
    "label_studio": Format(
        "Label Studio", ".json", label_studio.write, label_studio.fits, label_studio.read, label_studio.CONFIG
    ),
    "argilla": Format("Argilla", ".json", argilla.write, argilla.fits, argilla.read),
    "prodigy": Format("Prodigy", ".jsonl", prodigy.write, prodigy.fits, prodigy.read),
    "csv": Format("CSV", ".csv", spreadsheet.write),
}


def check_format(name: str) -> None:
    """Raise if there is no format of this name."""
    if name not in FORMATS:
        raise ValueError(f"`format` must be one of {list(FORMATS)}, got {name!r}.")


def log_lines(entries: list[Entry]) -> list[Entry]:
    """The records of any tool as lines of a label log."""
    for tool in FORMATS.values():
        if entries and tool.fits is not None and tool.read is not None and tool.fits(entries[0].value):
            titled = (Entry(f"{where} (read as {tool.title})", value) for where, value in entries)
            return list(tool.read(titled))
    return entries

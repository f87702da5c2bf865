"""The formats of labels. Each source turns one format into label records."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset

from ..core.columns import kind
from .formats.entries import Entry
from .formats.files import read_file
from .formats.tools import log_lines
from .hub_labels import download_logs, is_dataset_id
from .label_log import LabelRecord, check_label, current_records, parse_record, read_log


class Source(NamedTuple):
    """
    A format of labels.

    Attributes:
        fits (`Callable`): Whether labels have this format.
        read (`Callable`): Reads the records from the labels and the number of rows of each dataset.
    """

    fits: Callable[[Any], bool]
    read: Callable[[Any, list[int]], Iterable[LabelRecord]]


def read_labels(labels: Any, datasets: Iterable[Dataset]) -> list[LabelRecord]:
    """Read labels in any supported format, and return the decisions that count."""
    for source in SOURCES.values():
        if source.fits(labels):
            return current_records(source.read(labels, [len(rows) for rows in datasets]))
    raise TypeError(f"`labels` must be a path, a dataset or its id on the Hub, a dict or a list, got {kind(labels)}.")


def _from_path(path: Any, sizes: list[int]) -> list[LabelRecord]:
    return _from_entries(list(read_file(path)))


def _from_hub(repo_id: Any, sizes: list[int]) -> list[LabelRecord]:
    return _from_records([record for path in download_logs(repo_id) for record in read_log(path)], sizes)


def _from_records(records: Iterable[Mapping[str, Any]], sizes: list[int]) -> list[LabelRecord]:
    return _from_entries([Entry(f"{n} of `labels`", record) for n, record in enumerate(records, 1)])


def _from_entries(entries: list[Entry]) -> list[LabelRecord]:
    lines = log_lines(entries)
    read = [parse_record(value, where) for where, value in lines]
    if lines and not any("label" in value for _, value in lines):
        raise ValueError(
            f"None of the {len(lines)} records of `labels` has a `label`. Found: {sorted(lines[0].value)}."
        )
    return read


def _from_dict(labels: Mapping[Any, Any], sizes: list[int]) -> list[LabelRecord]:
    return [
        parse_record({"pair_id": pair, "label": label}, f"{n} of `labels`")
        for n, (pair, label) in enumerate(labels.items(), 1)
    ]


def _from_rows(labels: list[Any], sizes: list[int]) -> list[LabelRecord]:
    if sizes != [len(labels)]:
        raise ValueError(
            f"`labels` is a list of {len(labels)} for {sum(sizes)} pairs. Pass one label per row of one dataset, with None for "
            "rows without a label, or a dict that maps `pair_id` to label."
        )
    return [LabelRecord(r, check_label(label, f"of row {r}")) for r, label in enumerate(labels)]


# The first source that fits is used.
SOURCES = {
    "hub": Source(is_dataset_id, _from_hub),
    "path": Source(lambda labels: isinstance(labels, str | Path), _from_path),
    "dataset": Source(
        lambda labels: isinstance(labels, Dataset), lambda labels, sizes: _from_records(labels.to_list(), sizes)
    ),
    "dict": Source(lambda labels: isinstance(labels, Mapping), _from_dict),
    "records": Source(
        lambda labels: isinstance(labels, list) and all(isinstance(x, Mapping) for x in labels),
        _from_records,
    ),
    "rows": Source(lambda labels: isinstance(labels, list), _from_rows),
}

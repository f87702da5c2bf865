"""Tasks for annotators: `to_label_tasks`, and the files of tasks."""

import filecmp
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets

from ..core.files import whole_file
from ..selection.select import pair_id
from .formats.tools import FORMATS, check_format
from .label_log import parse_line, split_lines


TASK = ("pair_id", "prompt", "response_a", "response_b")


def to_label_tasks(dataset: Any, path: str | Path | None = None, format: str = "jsonl") -> Dataset:
    r"""
    Create the tasks for annotators. Each distinct pair occurs once, without anything that would reveal the answer.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.DatasetDict`]):
            Unlabeled pairs, as [`real_select`] picks them from responses without scores.
        path (`str` or `Path`, *optional*):
            The file to write. An existing JSONL file is replaced only if it contains unmodified tasks. Other files are never
            replaced. [`apply_labels`] reads the labels that come back, and recognizes the format.
        format (`str`, *optional*, defaults to `"jsonl"`):
            The format of the file. All but `"jsonl"` show messages as plain text.

            - `"jsonl"`: one task per line. Annotators add a `"label"` to each task: `"a"`, `"b"`, `"tie"` or null. If there are
              several annotators, they also add their name as `"annotator"`.
            - `"label_studio"`: a JSON file to import into Label Studio. The labeling interface is written next to it, as a file
              with the ending `.xml`.
            - `"argilla"`: a JSON file of records for `dataset.records.log` of Argilla.
            - `"prodigy"`: a JSONL file for the `choice` interface of Prodigy.
            - `"csv"`: a CSV file for spreadsheets, with empty columns `label` and `annotator`.

    Returns:
        [`~datasets.Dataset`]: The columns `pair_id`, `prompt`, `response_a` and `response_b`.

    Raises:
        `TypeError`: If `dataset` is neither.
        `ValueError`: If one of the columns is missing, or the format is unknown.
        `FileExistsError`: If the file at `path` contains labels or anything else but unmodified tasks, or is not JSONL.

    Example:

    ```python
    >>> from trl_real import load_sample, real_select, to_label_tasks

    >>> candidates = load_sample().remove_columns("scores")
    >>> pairs = candidates.map(real_select, batched=True, remove_columns=["responses"])
    >>> to_label_tasks(pairs).column_names
    ['pair_id', 'prompt', 'response_a', 'response_b']
    ```
    """
    check_format(format)
    splits = as_splits(dataset)
    tasks = concatenate_datasets([check_columns(rows).select_columns(list(TASK)) for rows in splits.values()])
    tasks = tasks.select(_first_of_each(tasks["pair_id"][:]))
    if path is not None:
        tool = FORMATS[format]
        files: list[tuple[Path, Iterable[str]]] = [(Path(path), tool.write(tasks))]
        if tool.config is not None:
            files.append((Path(path).with_suffix(".xml"), [tool.config]))
            if files[0][0] == files[1][0]:
                raise ValueError(
                    f"`path` is {str(path)!r}, but the labeling interface gets the ending .xml. Use .json for the tasks."
                )
        _write(files, _check_unaltered if format == "jsonl" else _refuse)
    return tasks


def _write(files: list[tuple[Path, Iterable[str]]], check: Callable[[Path], None]) -> None:
    """Write all files or none. Where there is another file, `check` raises unless it may be replaced."""
    (path, texts), *others = files
    with whole_file(path) as unfinished:
        with open(unfinished, "w", encoding="utf-8", newline="") as file:
            file.writelines(texts)
        if path.exists() and not filecmp.cmp(path, unfinished, shallow=False):
            check(path)
        if others:
            _write(others, check)


def _refuse(path: Path) -> None:
    raise FileExistsError(f"{path} is there already and may contain labels. Move it, or choose another path.")


def _check_unaltered(path: Path) -> None:
    """Raise if a file contains anything but unmodified tasks, because it may be the work of an annotator."""
    try:
        for n, line in enumerate(split_lines(path.read_bytes()), 1):
            if not line.strip():
                continue
            task = parse_line(path, n, line)
            if missing := [name for name in TASK if name not in task]:
                raise ValueError(f"line {n} has no field `{missing[0]}`")
            if added := [name for name in task if name not in TASK]:
                raise ValueError(f"line {n} has the field `{added[0]}`")
            if task["pair_id"] != pair_id(*(task[name] for name in TASK[1:])):
                raise ValueError(f"line {n} has a `pair_id` that does not match the prompt and the responses")
    except ValueError as error:
        raise FileExistsError(
            f"{path} is not replaced, because it contains more than unmodified tasks: {error}. Move it, or choose another path."
        ) from error


def as_splits(dataset: Any) -> dict[str, Dataset]:
    splits = dict(dataset) if isinstance(dataset, dict) else {"": dataset}
    for rows in splits.values():
        if not isinstance(rows, Dataset):
            raise TypeError(
                f"`dataset` must be a `datasets.Dataset` or a `DatasetDict`, got {type(rows).__name__}. Convert a stream with "
                "`Dataset.from_list(list(stream))`."
            )
    return {name: rows.with_format(None) for name, rows in splits.items()}


def _first_of_each(ids: list[str | None]) -> list[int]:
    """The first row of each pair."""
    first: dict[str, int] = {}
    for row, pair in enumerate(ids):
        if pair is not None:
            first.setdefault(pair, row)
    return list(first.values())


def check_columns(rows: Dataset) -> Dataset:
    missing = [name for name in TASK if name not in rows.column_names]
    if missing:
        raise ValueError(
            f"Unlabeled pairs have the columns {list(TASK)}; {missing} are missing. Found: {rows.column_names}. Create pairs "
            "with `real_select` from `prompt` and `responses` without `scores`."
        )
    return rows

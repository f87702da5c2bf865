"""CSV files for spreadsheets. What Excel, LibreOffice or Google Sheets would take for a formula is marked as text."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from . import label_studio
from .entries import Entry, decision, label_of, plain_task


BYTE_ORDER_MARK = "\ufeff"  # without which Excel does not read UTF-8
COLUMNS = ("prompt", "response_a", "response_b", "label", "annotator", "pair_id", "response_a_sha256")
NEEDED = ("pair_id", "label")
# A formula, with any number of apostrophes before it. One more marks it as text.
FORMULA = re.compile(r"'*[=+\-@\t\r]")
# What spreadsheets may turn into a number, a date or a truth value.
REFORMATTED = re.compile(r"(?s)(?=.*\d).{1,30}|true|false", re.IGNORECASE)


def write(tasks: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Tasks as a CSV file with an empty label and an empty annotator per row."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, COLUMNS)
    writer.writeheader()
    yield BYTE_ORDER_MARK
    for task in tasks:
        writer.writerow({name: _as_text(value) for name, value in plain_task(task)._asdict().items()})
    yield buffer.getvalue()


def _as_text(cell: str) -> str:
    return f"'{cell}" if FORMULA.match(cell) else cell


def _as_was(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def columns(text: str) -> tuple[list[str], str]:
    """The columns of a CSV file with a `pair_id`, and the character between its cells; no columns if it is another file."""
    first = io.StringIO(text, newline="").readline()[:10_000]
    for delimiter in ",;\t":
        names = [name.strip().lower() for name in next(csv.reader([first], delimiter=delimiter), [])]
        if "pair_id" in names:
            return names, delimiter
    return [], ","


def read(text: str, path: str) -> Iterator[Entry]:
    """The rows of a CSV file as lines of a label log. A row without a label and an annotator is not labeled yet."""
    names, delimiter = columns(text)
    if label_studio.is_minimal(names):
        raise ValueError(f"{path}: {label_studio.MINIMAL}")
    if wrong := [name for name in NEEDED if names.count(name) != 1]:
        raise ValueError(f"{path}: expected a CSV file with one column `{wrong[0]}`, found the columns {names}.")
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a response may be longer than the default of 128 KB
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for n, cells in enumerate(rows, 1):
            if n == 1 or not any(cells):
                continue
            if any(cells[len(names) :]):
                raise ValueError(f"{path}, row {n}: found {len(cells)} cells, but there are {len(names)} columns.")
            row = {name: _as_was(cell) for name, cell in zip(names, cells, strict=False) if cell}
            where = f"of row {n} of {path}"
            label = label_of(row.get("label"), where)
            if label is not None or row.get("annotator"):
                yield Entry(
                    where, decision(row.get("pair_id"), label, row.get("annotator"), _about(row), time=row.get("time"))
                )
    except csv.Error as error:
        raise ValueError(f"{path}, row {rows.line_num}: this is not CSV: {error}.") from error


def _about(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The responses of a row. If a spreadsheet may have turned one into a number or a date, only the hash says which they are."""
    sides = [row.get(name, "") for name in ("response_a", "response_b")]
    if "response_a_sha256" in row and any(map(REFORMATTED.fullmatch, sides)):
        return {"response_a_sha256": row["response_a_sha256"]}
    return row

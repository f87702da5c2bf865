"""Read the records of a file of labels: a JSON list, JSON Lines or CSV, which its content tells."""

import json
from collections.abc import Iterator
from pathlib import Path

from ...core.columns import kind
from ..label_log import read_log
from . import spreadsheet
from .entries import Entry, numbered


def read_file(path: str | Path) -> Iterator[Entry]:
    """The records of a file of labels. Those of a CSV file are lines of a label log."""
    data = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf")
    if data.lstrip()[:1] not in (b"[", b"{", b""):
        yield from spreadsheet.read(_read_csv(data, path), str(path))
    elif _is_list(data):
        yield from _read_list(data, path)
    else:
        yield from numbered(read_log(path), str(path))


def _is_list(data: bytes) -> bool:
    """Whether a file is a JSON list of objects."""
    return data.lstrip().startswith(b"[") and data.lstrip()[1:].lstrip()[:1] in (b"{", b"]")


def _read_list(data: bytes, path: str | Path) -> Iterator[Entry]:
    try:
        records = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    for n, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise ValueError(f"{path}, record {n}: expected an object, found {kind(record)}.")
    yield from numbered(records, str(path))


def _read_csv(data: bytes, path: str | Path) -> str:
    """The text of a CSV file. Raise if it is another file."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}. In a spreadsheet, save it as `CSV UTF-8`.") from error
    if not spreadsheet.columns(text)[0]:
        raise ValueError(
            f"{path}: expected JSON, or CSV with the columns `pair_id` and `label`, found {text!r:.60}. Labels come as JSON Lines, as "
            "CSV, or as the JSON export of Label Studio, Argilla or Prodigy."
        )
    return text

"""
The label log: JSON lines that are only ever appended, one decision of an annotator per line.

A line has `pair_id`, `label` (`"a"`, `"b"`, `"tie"`, or null where the pair was skipped) and `annotator`, and perhaps
`response_a_sha256` (or `response_a` and `response_b` themselves), `shown_first`, `seconds`, `time` and `undone`.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from ..core.columns import kind
from ..core.files import cut, open_log
from ..core.messages import as_json


logger = logging.getLogger(__name__)

OTHER_SIDE: dict[str | None, str | None] = {"a": "b", "b": "a", "tie": "tie", None: None}


class LabelRecord(NamedTuple):
    """
    A decision of an annotator about a pair.

    Attributes:
        pair (`str` or `int`): The `pair_id`; or the row, where labels come as a list.
        label (`str` or `None`): `"a"`, `"b"`, `"tie"`, or `None` if the pair was skipped.
        annotator (`str`): Who decided.
        sides (`tuple` or `None`): `response_a` and `response_b` that the label is about, if they are given.
        response_a_sha256 (`str` or `None`): What `side_sha256` says of the `response_a` that the label is about.
        shown_first (`str` or `None`): The side that was shown first, `"a"` or `"b"`.
        seconds (`float` or `None`): How long the annotator took.
        time (`datetime` or `None`): When the annotator decided.
        undone (`bool`): Whether this takes back what the annotator has decided about the pair.
    """

    pair: str | int
    label: str | None
    annotator: str = "None"
    sides: tuple[Any, Any] | None = None
    response_a_sha256: str | None = None
    shown_first: str | None = None
    seconds: float | None = None
    time: datetime | None = None
    undone: bool = False


def create_log(path: Path) -> None:
    """Make the label log, if it is not there."""
    os.close(open_log(path))


def append_decision(path: str | Path, decision: Mapping[str, Any]) -> None:
    """
    Append a decision to the label log at `path`, and return once it is on the disk.

    The line is written by a single call, so that lines of several processes do not mix. What a killed process has left
    without an end gets one first, so that it does not spoil the line.
    """
    parse_record(decision, f"of the pair {decision.get('pair_id')!r}")
    line = (json.dumps(dict(decision)) + "\n").encode()
    file = open_log(Path(path))
    try:
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            line = b"\n" + line
        written = os.write(file, line)
        if written < len(line):
            if os.fstat(file).st_size == size + written:  # nobody has appended since
                cut(file, size)
            raise OSError(f"{path}: only {written} of the {len(line)} bytes of a decision could be written.")
        os.fsync(file)
    finally:
        os.close(file)


def read_log(path: str | Path) -> Iterator[dict[str, Any]]:
    """The lines of a label log as objects. A line that was cut off when a process was killed is left out with a warning."""
    yield from _parse_lines(path, Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1)


class LogReader:
    """
    Reads what is appended to a label log, by this process or by others.

    Args:
        path (`Path`):
            The log, which is there.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: int | None = None
        self._offset = self._lines = 0

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """The lines since the last call, and whether they are all lines, because the file is new or was replaced."""
        with open(self.path, "rb") as file:
            found = os.fstat(file.fileno())
            anew = found.st_ino != self._file or found.st_size < self._offset
            if anew:
                self._file, self._offset, self._lines = found.st_ino, 0, 0
            file.seek(self._offset)
            data = file.read()
        ended = data[: data.rfind(b"\n") + 1]  # what has no end yet is being written, or was cut off
        lines = ended.removeprefix(b"\xef\xbb\xbf").split(b"\n")[:-1]
        records = list(_parse_lines(self.path, lines, self._lines + 1))
        self._offset, self._lines = self._offset + len(ended), self._lines + len(lines)
        return records, anew


def _parse_lines(path: str | Path, lines: list[bytes], first: int) -> Iterator[dict[str, Any]]:
    """The lines as objects; `first` is the number of the first one."""
    torn = []
    for n, line in enumerate(lines, first):
        line = line.strip()
        if not line:
            continue
        if line.startswith(b"{") and not line.endswith(b"}"):
            torn.append(n)
            continue
        try:
            record = json.loads(line.decode())
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8: line {n}: {error}.") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {n}: expected JSON, found {line.decode()!r:.60}: {error}.") from error
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {n}: expected an object with `pair_id` and `label`, found {kind(record)}.")
        yield record
    if torn:
        logger.warning(
            "%s: ignored %d lines that are cut off, as a killed process leaves them; the first is line %d.",
            path,
            len(torn),
            torn[0],
        )


def parse_record(record: Mapping[str, Any], where: str) -> LabelRecord:
    """A decision from an object of a label log; `where` says in messages which one it is."""
    pair = record.get("pair_id")
    if not isinstance(pair, str):
        raise ValueError(f"Label {where}: expected a `pair_id`, found {kind(pair)}.")
    sides = (record.get("response_a"), record.get("response_b"))
    digest, first, seconds = (record.get(name) for name in ("response_a_sha256", "shown_first", "seconds"))
    if not isinstance(digest, str | None):
        raise ValueError(f"Label {where}: `response_a_sha256` must be a text, found {kind(digest)}.")
    if first not in ("a", "b", None):
        raise ValueError(f"Label {where}: `shown_first` must be 'a' or 'b', found {kind(first)}.")
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, Real) or not float(seconds) >= 0):
        raise ValueError(f"Label {where}: `seconds` must be a number of at least 0, found {kind(seconds)}.")
    return LabelRecord(
        pair,
        check_label(record.get("label"), f"of the pair {pair!r}"),
        str(record.get("annotator")),  # a name or a number
        None if None in sides else sides,
        digest,
        first,
        None if seconds is None else float(seconds),
        _read_time(record.get("time"), where),
        record.get("undone") is True,
    )


def _read_time(time: Any, where: str) -> datetime | None:
    if time is None:
        return None
    try:
        read = datetime.fromisoformat(time)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Label {where}: `time` must be in ISO 8601, such as '2026-01-31T09:30:00Z', found {kind(time)}."
        ) from error
    return read.replace(tzinfo=UTC) if read.tzinfo is None else read


def check_label(label: Any, where: str) -> str | None:
    """The label, if it is one."""
    if isinstance(label, str | None) and label in OTHER_SIDE:
        return label
    raise ValueError(f"The label {where} must be 'a', 'b', 'tie' or None, found {kind(label)}.")


def current_records(records: Iterable[LabelRecord]) -> list[LabelRecord]:
    """
    The decisions that count: of each pair and annotator the one with the latest `time`, of equal times the last one, and
    none where that is undone.
    """
    latest: dict[tuple[str | int, str], LabelRecord] = {}
    repeated = []
    for record in records:
        key = record.pair, record.annotator
        earlier = latest.get(key)
        if earlier is None:
            latest[key] = record
        elif earlier.time is None or record.time is None:
            repeated.append(str(record.pair))
        elif counts_after(record, earlier):
            latest[key] = record
    if repeated:
        pairs = list(dict.fromkeys(repeated))
        raise ValueError(
            f"`labels` has {len(pairs)} `pair_id`s twice: {first_names(pairs)}. Where several people label, tell them apart "
            "by `annotator`; where one has decided again, say when by `time`."
        )
    return [record for record in latest.values() if not record.undone]


def counts_after(record: LabelRecord, earlier: LabelRecord) -> bool:
    """Whether a decision counts in place of one that stands before it in the log, of the same annotator about the same pair."""
    return record.time is not None and (earlier.time is None or record.time >= earlier.time)


def side_sha256(response: Any) -> str:
    """The SHA-256 of the JSON of a response, by which a label says which response it calls `"a"`."""
    return hashlib.sha256(as_json(response).encode()).hexdigest()


def is_turned(record: LabelRecord, response_a: Any, response_b: Any) -> bool:
    """Whether the label is about the pair with its sides the other way round; an error if it is about other responses."""
    sides = [response_a, response_b]
    if record.sides is not None:
        found = [as_json(side) for side in record.sides]
        known = [as_json(side) for side in sides]
        said = f"{record.sides[0]!r:.60} and {record.sides[1]!r:.60}"
    elif record.response_a_sha256 is not None:
        known = [side_sha256(side) for side in sides]
        # Only one of them is known: the other is taken to be the rest of the pair.
        found = (
            known[::-1] if record.response_a_sha256 == known[1] != known[0] else [record.response_a_sha256, known[1]]
        )
        said = f"a `response_a` with the SHA-256 {record.response_a_sha256!r:.70}"
    else:
        return False
    if found == known:
        return False
    if found == known[::-1]:
        return True
    raise ValueError(
        f"The label of the pair {record.pair!r} is about other responses than those of the pair: {said}. Leave the responses "
        "out of `labels`, or as `to_label_tasks` gave them."
    )


def first_names(names: list[str]) -> str:
    """The first names of a list, for messages."""
    return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")

"""
The label log: an append-only JSONL file with one decision of an annotator per line.

A line has `pair_id`, `label` (`"a"`, `"b"`, `"tie"`, or null for a skipped pair) and `annotator`. Optional fields are
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
from ..core.files import append, open_log
from ..core.messages import as_json
from .plain_text import plain_text, recognizable


logger = logging.getLogger(__name__)

MAX_SECONDS = 1e9  # more are no time that somebody took
OTHER_SIDE: dict[str | None, str | None] = {"a": "b", "b": "a", "tie": "tie", None: None}


class LabelRecord(NamedTuple):
    """
    A decision of an annotator about a pair.

    Attributes:
        pair (`str` or `int`): The `pair_id`, or the row number if the labels are a list.
        label (`str` or `None`): `"a"`, `"b"`, `"tie"`, or `None` if the pair was skipped.
        annotator (`str`): The annotator.
        sides (`tuple` or `None`): The `response_a` and `response_b` that the label refers to, if given.
        response_a_sha256 (`str` or `None`): The `side_sha256` of the `response_a` that the label refers to.
        shown_first (`str` or `None`): The side that was shown first, `"a"` or `"b"`.
        seconds (`float` or `None`): How long the annotator took.
        time (`datetime` or `None`): When the annotator decided.
        undone (`bool`): Whether this record revokes the decision of the annotator about the pair.
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
    """Create the label log if it does not exist."""
    os.close(open_log(path))


def append_decision(path: str | Path, decision: Mapping[str, Any]) -> None:
    """
    Append a decision to the label log at `path`, and return once it is saved to disk.

    Processes and threads append one after the other, so that their lines do not mix, and a line that does not fit on the disk is
    removed. If the last line is incomplete because a process was killed, it is terminated first, so that it does not corrupt the
    new line.
    """
    import fcntl  # which Windows does not have, where labels can still be read

    parse_record(decision, f"of the pair {decision.get('pair_id')!r}")
    line = (json.dumps(dict(decision)) + "\n").encode()
    file = open_log(Path(path))
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            line = b"\n" + line
        append(file, line)
    finally:
        os.close(file)


def read_log(path: str | Path) -> Iterator[dict[str, Any]]:
    """The lines of a label log as objects. Incomplete lines of a killed process are skipped with a warning."""
    yield from _parse_lines(path, split_lines(Path(path).read_bytes()), 1)


def split_lines(data: bytes) -> list[bytes]:
    """The lines of a file, without a byte order mark."""
    return data.removeprefix(b"\xef\xbb\xbf").split(b"\n")


class LogReader:
    """
    Follows a label log that this process or others append to.

    Args:
        path (`Path`):
            The log. It must exist.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: int | None = None
        self._offset = self._lines = 0

    def read(self) -> tuple[list[LabelRecord], bool]:
        """
        The new decisions since the last call, and whether these are all decisions because the file is new or was replaced. If a
        line is not valid, the next call reads the same lines again.
        """
        with open(self.path, "rb") as file:
            found = os.fstat(file.fileno())
            anew = found.st_ino != self._file or found.st_size < self._offset
            offset, n_lines = (0, 0) if anew else (self._offset, self._lines)
            file.seek(offset)
            data = file.read()
        ended = data[
            : data.rfind(b"\n") + 1
        ]  # an incomplete line is still being written, or was left by a killed process
        lines = split_lines(ended)[:-1]
        records = [parse_record(line, f"in {self.path}") for line in _parse_lines(self.path, lines, n_lines + 1)]
        self._file, self._offset, self._lines = found.st_ino, offset + len(ended), n_lines + len(lines)
        return records, anew


def _parse_lines(path: str | Path, lines: list[bytes], first: int) -> Iterator[dict[str, Any]]:
    """Parse the lines of a log, whose first one has the number `first`."""
    incomplete = []
    for n, line in enumerate(lines, first):
        if line.startswith(b"{") and not line.rstrip().endswith(b"}"):
            incomplete.append(n)
        elif line.strip():
            yield parse_line(path, n, line)
    if incomplete:
        logger.warning(
            "%s: ignored %d incomplete lines, as a killed process leaves them; the first is line %d.",
            path,
            len(incomplete),
            incomplete[0],
        )


def parse_line(path: str | Path, n: int, line: bytes) -> dict[str, Any]:
    """Parse line `n` of a file of JSON lines, which holds an object with `pair_id` and `label`."""
    try:
        text = line.decode().strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: line {n}: {error}.") from error
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}, line {n}: expected JSON, found {text!r:.60}: {error}.") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path}, line {n}: expected an object with `pair_id` and `label`, found {kind(record)}.")
    return record


def parse_record(record: Mapping[str, Any], where: str) -> LabelRecord:
    """Parse an object of a label log. `where` describes its position in error messages."""
    pair = record.get("pair_id")
    if not isinstance(pair, str):
        raise ValueError(f"Label {where}: expected a `pair_id`, found {kind(pair)}.")
    sides = (record.get("response_a"), record.get("response_b"))
    digest, first, seconds = (record.get(name) for name in ("response_a_sha256", "shown_first", "seconds"))
    if not isinstance(digest, str | None):
        raise ValueError(f"Label {where}: `response_a_sha256` must be a string, found {kind(digest)}.")
    if first not in ("a", "b", None):
        raise ValueError(f"Label {where}: `shown_first` must be 'a' or 'b', found {kind(first)}.")
    if seconds is not None and (
        isinstance(seconds, bool) or not isinstance(seconds, Real) or seconds < 0 or not seconds < MAX_SECONDS
    ):
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
        read = time if isinstance(time, datetime) else datetime.fromisoformat(time)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Label {where}: `time` must be in ISO 8601, such as '2026-01-31T09:30:00Z', found {kind(time)}."
        ) from error
    return read.replace(tzinfo=UTC) if read.tzinfo is None else read


def check_label(label: Any, where: str) -> str | None:
    """Return the label, or raise if it is not valid."""
    if isinstance(label, str | None) and label in OTHER_SIDE:
        return label
    raise ValueError(f"The label {where} must be 'a', 'b', 'tie' or None, found {kind(label)}.")


def current_records(records: Iterable[LabelRecord]) -> list[LabelRecord]:
    """
    The decisions that count. For each pair and annotator, this is the decision with the latest `time`, or the last one of equal
    times. If it is undone, none counts.
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
            f"`labels` has {len(pairs)} `pair_id`s more than once: {first_names(pairs)}. If several people labeled, set "
            "`annotator`. If one person decided again, set `time`."
        )
    return [record for record in latest.values() if not record.undone]


def counts_after(record: LabelRecord, earlier: LabelRecord) -> bool:
    """Whether a decision counts in place of one that stands before it in the log, of the same annotator about the same pair."""
    return record.time is not None and (earlier.time is None or record.time >= earlier.time)


def side_sha256(response: Any) -> str:
    """The SHA-256 of the JSON of a response. A label uses it to say which response it calls `"a"`."""
    return hashlib.sha256(as_json(response).encode()).hexdigest()


def is_turned(record: LabelRecord, response_a: Any, response_b: Any) -> bool:
    """Whether the label refers to the pair with its sides swapped. Raise if it refers to other responses."""
    sides = [response_a, response_b]
    said = "" if record.sides is None else f"{record.sides[0]!r:.60} and {record.sides[1]!r:.60}"
    if record.sides is not None:
        alike = False
        # Other tools show messages as plain text, and some change its white space.
        for look in (as_json, plain_text, recognizable):
            found, known = (list(map(look, of)) for of in (record.sides, sides))
            if set(found) == set(known):
                if known[0] != known[1]:
                    return found[0] != known[0]
                alike = True
        if not alike:
            raise _other_responses(record, said)
    if record.response_a_sha256 is not None:
        # Only one side is known; the other one is assumed to be the other response of the pair.
        known = [side_sha256(side) for side in sides]
        if record.response_a_sha256 not in known:
            raise _other_responses(record, f"a `response_a` with the SHA-256 {record.response_a_sha256!r:.70}")
        return record.response_a_sha256 == known[1] != known[0]
    if record.sides is not None and as_json(response_a) != as_json(response_b):
        raise _other_responses(record, f"{said}, which look like either of them")
    return False


def _other_responses(record: LabelRecord, said: str) -> ValueError:
    return ValueError(
        f"The label of the pair {record.pair!r} refers to responses that are not in the pair: {said}. Remove the responses from "
        "`labels`, or keep them as `to_label_tasks` wrote them."
    )


def first_names(names: list[str]) -> str:
    """The first names of a list, for error messages."""
    return ", ".join(f"{name!r:.60}" for name in names[:3]) + (", ..." if len(names) > 3 else "")

"""Follow the decisions in a growing label log: `Decisions`."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .label_log import LabelRecord, LogReader, append_decision, counts_after, create_log


class Decisions:
    """
    The current decisions in a label log. The log is created if it does not exist.

    Args:
        log (`Path`):
            The label log.

    Attributes:
        by_annotator (`dict[str, dict[str, LabelRecord]]`): The decisions of each annotator by pair, in the order of time.
        counts (`Counter[str]`): The number of annotators with a decision per pair.
    """

    def __init__(self, log: Path):
        self.log = log
        create_log(log)
        self._reader = LogReader(log)
        self.follow()

    def follow(self) -> None:
        """Read new lines of the log, whichever process appended them."""
        records, anew = self._reader.read()
        if anew:
            self._latest: dict[tuple[str, str], LabelRecord] = {}
            self.by_annotator: dict[str, dict[str, LabelRecord]] = {}
            self.counts: Counter[str] = Counter()
        for record in records:
            self._add(record)

    def append(self, annotator: str, pair: str, decision: dict[str, Any]) -> None:
        """Append a decision with the time, and return once it is saved to disk."""
        now, earlier = datetime.now(UTC), self._latest.get((pair, annotator))
        if earlier is not None and earlier.time is not None:
            now = max(now, earlier.time)  # the clock may have been set back
        append_decision(self.log, {"pair_id": pair, "annotator": annotator, **decision, "time": now.isoformat()})
        self.follow()

    def of(self, annotator: str, pair: str) -> LabelRecord | None:
        """The decision of an annotator about a pair."""
        return self.by_annotator.get(annotator, {}).get(pair)

    def last(self, annotator: str) -> str | None:
        """The pair of the last decision of an annotator."""
        return next(reversed(self.by_annotator.get(annotator, {})), None)

    def _add(self, record: LabelRecord) -> None:
        pair, annotator = str(record.pair), record.annotator
        earlier = self._latest.get((pair, annotator))
        if earlier is not None and not counts_after(record, earlier):
            return
        self._latest[pair, annotator] = record
        decided = self.by_annotator.setdefault(annotator, {})
        if decided.pop(pair, None) is not None:
            self.counts[pair] -= 1
        if not record.undone:
            decided[pair] = record
            self.counts[pair] += 1

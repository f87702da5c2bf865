"""Save the labels of a Space to a dataset on the Hub: `LabelSaver`."""

import logging
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitScheduler
from tenacity import Retrying, stop_after_attempt, wait_exponential


logger = logging.getLogger(__name__)

EVERY = 1.0  # minutes between two commits; the Hub limits the commits per hour
NEWLINE = b"\n"
TRIES = 4  # of the last commit
WAIT = 1.0  # seconds before the second one, doubled for each further one


class Saved(NamedTuple):
    """
    How much of the label log is on the Hub.

    Attributes:
        saved (`int`): Decisions that are on the Hub, including those of earlier starts.
        decisions (`int`): All decisions.
        failing (`bool`): Whether the last attempt to save failed.
    """

    saved: int
    decisions: int
    failing: bool


class LabelSaver(CommitScheduler):
    """
    Commits new decisions of a label log to a dataset every minute, if there are any, and when the `with` block ends.

    The decisions that are in the log when it starts must be on the Hub already. The new ones go to a file of their own, so that no
    start of the page ever overwrites the labels of another. If a commit fails, the next one has its decisions as well.

    Args:
        log (`Path`):
            The label log. It must exist.
        repo_id (`str`):
            The dataset. Its new file is `labels/<time>-<random>.jsonl`.
    """

    def __init__(self, log: Path, repo_id: str):
        self.log = log
        self.name = f"labels/{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}-{uuid.uuid4().hex[:8]}.jsonl"
        data = log.read_bytes()
        self._start, self._earlier = len(data), data.count(NEWLINE)
        self._committed = b""
        self._failing = False
        super().__init__(repo_id=repo_id, repo_type="dataset", folder_path=log.parent, every=EVERY, private=True)

    def push_to_hub(self) -> CommitInfo | None:
        """Commit all decisions of this start, unless they are on the Hub already."""
        new = self._new()
        if new == self._committed:
            return None
        n = new.count(NEWLINE) - self._committed.count(NEWLINE)
        message = f"Save {n} decision{'s' * (n != 1)}"
        try:
            commit = self.api.create_commit(
                self.repo_id, [CommitOperationAdd(self.name, new)], commit_message=message, repo_type="dataset"
            )
        except BaseException:
            self._failing = True
            raise
        self._committed, self._failing = new, False
        return commit

    def saved(self) -> Saved:
        """How much of the label log is on the Hub."""
        saved, failing = self._committed.count(NEWLINE), self._failing
        return Saved(self._earlier + saved, self._earlier + self._new().count(NEWLINE), failing)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        retrying = Retrying(stop=stop_after_attempt(TRIES), wait=wait_exponential(multiplier=WAIT), reraise=True)
        try:
            retrying(lambda: self.trigger().result())
        except Exception:
            saved = self.saved()
            logger.error("%d decisions are only in %s.", saved.decisions - saved.saved, self.log)
            raise
        self.stop()

    def _new(self) -> bytes:
        """The decisions of this start, without a line that is still being written."""
        with open(self.log, "rb") as file:
            file.seek(self._start)
            data = file.read()
        return data[: data.rfind(NEWLINE) + 1]

"""Work that outlives the process: an append-only log of what is done, and the loop that does the rest."""

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from datasets import config
from datasets.utils import tqdm
from filelock import FileLock, Timeout

from ..core.files import FULL, append, cut, open_log


# How every line of a log begins.
BEGINNING = b'{"key": "'


class Job(NamedTuple):
    """One piece of work: the key that its result is logged under, and what it is about."""

    key: str
    payload: Any


Results = dict[str, Any]
Record = Callable[[Results], None]


def content_key(*parts: Any) -> str:
    """A hash of all that a result depends on. Keys for an API are never among it."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def default_log(kind: str, *identity: Any) -> Path:
    """The log of a function that was given none, in the cache of `datasets`."""
    return Path(config.HF_DATASETS_CACHE) / "trl_real" / kind / f"{content_key(*identity)}.jsonl"


class ResumeLog:
    """
    Results in a JSONL file that only grows: a line each, on the disk before the next piece of work begins.

    A line that a killed process left unfinished is cut off. Only one process at a time has a log open.

    Args:
        path (`str` or `Path`):
            The file. Created if it is not there.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lock = FileLock(self.path.with_name(self.path.name + ".lock"), timeout=0)
        self._writing = threading.Lock()
        self._results: Results = {}

    def __enter__(self) -> "ResumeLog":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise BlockingIOError(
                f"Another process is writing to {self.path}. Wait until it ends, or choose another folder or "
                "`resume_from`."
            ) from None
        try:
            self._file = open_log(self.path)
            self._read()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._file)
        self._lock.release()

    def _read(self) -> None:
        whole = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n") and BEGINNING.startswith(line[: len(BEGINNING)]):
                    break  # of a process that was killed
                try:
                    record = json.loads(line)
                    self._results[record["key"]] = record["result"]
                except (ValueError, TypeError, KeyError):
                    raise ValueError(
                        f"{self.path}, line {number}: expected a line of a log of `trl_real`, found {line[:60]!r}. "
                        "Choose another file for `resume_from`."
                    ) from None
                whole += len(line)
        cut(self._file, whole)

    def __contains__(self, key: str) -> bool:
        return key in self._results

    def __getitem__(self, key: str) -> Any:
        return self._results[key]

    def append(self, results: Results) -> None:
        """Add results, all or none of them."""
        lines = "".join(json.dumps({"key": key, "result": result}) + "\n" for key, result in results.items()).encode()
        with self._writing:
            try:
                append(self._file, lines)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                raise OSError(
                    error.errno,
                    f"The disk of {self.path} is full. What was done so far is kept there: make room and start again",
                ) from error
            self._results |= results


def run_jobs(
    jobs: list[Job],
    work: Callable[[list[list[Job]], Record], None],
    log: ResumeLog,
    batch_size: int,
    desc: str,
) -> Results:
    """
    The results of all jobs: those in the log, and what `work` records of batches of the others.

    A job is in the same batch whatever is in the log, so that a run that was interrupted computes the same. What `work` has no
    result for is not in the answer, and not in the log.
    """
    jobs = list({job.key: job for job in jobs}.values())
    batches = [jobs[start : start + batch_size] for start in range(0, len(jobs), batch_size)]
    missing = [batch for batch in ([job for job in jobs if job.key not in log] for jobs in batches) if batch]
    left = sum(map(len, missing))
    with tqdm(total=len(jobs), initial=len(jobs) - left, desc=desc) as progress:

        def record(results: Results) -> None:
            log.append(results)
            progress.update(len(results))

        if missing:
            work(missing, record)
    return {job.key: log[job.key] for job in jobs if job.key in log}

"""Resumable work: an append-only log of results, and the loop that computes the missing ones."""

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


# Every line of a log begins with this.
BEGINNING = b'{"key": "'


class Job(NamedTuple):
    """One unit of work: the key of its result in the log, and its input."""

    key: str
    payload: Any


Results = dict[str, Any]
Record = Callable[[Results], None]


def content_key(*parts: Any) -> str:
    """A hash of everything that a result depends on. API keys are never part of it."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def default_log(kind: str, *identity: Any) -> Path:
    """The default path of a log, in the cache of `datasets`."""
    return Path(config.HF_DATASETS_CACHE) / "trl_real" / kind / f"{content_key(*identity)}.jsonl"


class ResumeLog:
    """
    Results in an append-only JSONL file, one per line. Each result is saved to disk before the next unit of work begins.

    An incomplete last line, which a killed process left, is removed. Only one process at a time can open a log.

    Args:
        path (`str` or `Path`):
            The file. It is created if it does not exist.
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
                if _is_incomplete(line):
                    break
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
        """Append all of the results or none of them."""
        lines = "".join(json.dumps({"key": key, "result": result}) + "\n" for key, result in results.items()).encode()
        with self._writing:
            try:
                append(self._file, lines)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                raise OSError(
                    error.errno,
                    f"The disk of {self.path} is full. Free up space and start again: the run resumes from the saved results",
                ) from error
            self._results |= results


def _is_incomplete(line: bytes) -> bool:
    """Whether a line is one of ours that a killed process has not written to its end."""
    if line.endswith(b"\n") or not BEGINNING.startswith(line[: len(BEGINNING)]):
        return False
    try:
        return set(json.loads(line)) == {"key", "result"}
    except ValueError:
        return True


def run_jobs(
    jobs: list[Job],
    work: Callable[[list[list[Job]], Record], None],
    log: ResumeLog,
    batch_size: int,
    desc: str,
) -> Results:
    """
    The results of all jobs: the ones in the log, and the ones that `work` computes and records in batches.

    Batches do not depend on the content of the log, so a resumed run computes the same results. Jobs for which `work` records
    no result are in neither the answer nor the log.
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

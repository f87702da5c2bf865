"""Assign pairs to annotators and record their decisions: `LabelQueue`, the core of the label page."""

import hashlib
import json
import logging
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset

from ..config import SelectionConfig
from ..core.checks import check_count, check_number
from ..core.columns import kind
from .decisions import Decisions
from .label_log import check_label, side_sha256
from .labels import check_pairs
from .progress import label_progress
from .progress_report import LabelProgress
from .rounds import next_pairs
from .tasks import TASK


logger = logging.getLogger(__name__)

# When only this many pairs of a round are left (at most a quarter of it), the next round is picked in the background.
FEW = 5


class LabelTask(NamedTuple):
    """
    A pair to label.

    Attributes:
        pair_id (`str`): Id of the pair.
        prompt (`str` or `list[dict]`): The prompt.
        response_a (`str` or `list[dict]`): The response that the label `"a"` prefers.
        response_b (`str` or `list[dict]`): The response that the label `"b"` prefers.
        shown_first (`str`): The response to show first (on the left): `"a"` or `"b"`.
    """

    pair_id: str
    prompt: Any
    response_a: Any
    response_b: Any
    shown_first: str


class AnnotatorCounts(NamedTuple):
    """
    The decisions of an annotator.

    Attributes:
        labels (`int`): Labels that prefer one side.
        ties (`int`): Labels that prefer neither side.
        skipped (`int`): Pairs without a label.
    """

    labels: int
    ties: int
    skipped: int


class QueueProgress(NamedTuple):
    """
    The progress of a project.

    Attributes:
        pairs (`int`): Number of distinct pairs.
        done (`int`): Pairs with decisions of `overlap` annotators.
        left_in_round (`int`): Pairs of the current round that are not done.
        annotators (`dict[str, AnnotatorCounts]`): The decisions of each annotator.
    """

    pairs: int
    done: int
    left_in_round: int
    annotators: dict[str, AnnotatorCounts]


class _Lease(NamedTuple):
    """The pair that is reserved for an annotator, and the time on the monotonic clock at which the reservation ends."""

    pair: str
    until: float


class LabelQueue:
    r"""
    Assigns pairs to annotators and appends their decisions to the label log.

    The log is the only state on disk. A new queue for the same pairs and log resumes after a crash, and a queue also reads the
    decisions that other processes append. Pairs are served in rounds that [`next_pairs`] picks. When a round is done, the queue picks
    the next one. All methods are thread-safe.

    A pair is reserved for the annotator who has it (a lease). Nobody else gets it until the lease expires, unless `overlap` allows
    more annotators per pair. A decision after the lease has expired still counts.

    The order of the two sides is random for each annotator and pair. It depends on `seed`, and is recorded in the log.

    Args:
        pairs ([`~datasets.Dataset`]):
            Unlabeled pairs, as [`real_select`] picks them from responses without scores.
        log (`str` or `Path`):
            The label log. It is created if it does not exist.
        n (`int`, *optional*, defaults to `50`):
            Number of pairs per round.
        strategy, audit, seed (*optional*):
            As in [`next_pairs`].
        overlap (`int`, *optional*, defaults to `1`):
            Number of annotators per pair.
        lease_seconds (`float`, *optional*, defaults to `900.0`):
            How long a pair is reserved for an annotator, in seconds.
        embedder, embedder_max_length, embedder_batch_size, embedder_dtype (*optional*):
            As in [`next_pairs`].

    Raises:
        `TypeError`: If `pairs` is not a [`~datasets.Dataset`].
        `ValueError`: If a column is missing, an option is not valid, or the log has labels of other pairs.

    Example:

    ```python
    >>> from trl_real import LabelQueue, load_sample, real_select

    >>> candidates = load_sample().remove_columns("scores")
    >>> pairs = candidates.map(real_select, batched=True, remove_columns=["responses"])
    >>> queue = LabelQueue(pairs, "project/labels.jsonl")
    >>> task = queue.next_task("anna")
    >>> queue.record("anna", task.pair_id, "a")
    >>> queue.undo("anna") == task
    True
    >>> queue.skip("anna", task.pair_id)
    >>> queue.progress().annotators
    {'anna': AnnotatorCounts(labels=0, ties=0, skipped=1)}
    ```
    """

    def __init__(
        self,
        pairs: Dataset,
        log: str | Path,
        n: int = 50,
        strategy: str = "random",
        audit: float = 0.2,
        seed: int = 0,
        *,
        overlap: int = 1,
        lease_seconds: float = 900.0,
        embedder: Any = SelectionConfig.embedder,
        embedder_max_length: int | None = SelectionConfig.embedder_max_length,
        embedder_batch_size: int = SelectionConfig.embedder_batch_size,
        embedder_dtype: str = SelectionConfig.embedder_dtype,
    ):
        check_count("overlap", overlap)
        check_number("lease_seconds", lease_seconds, 0, 1e9)
        check_pairs(pairs)
        self.log = Path(log)
        self.overlap = overlap
        self.lease_seconds = lease_seconds
        self._pairs = pairs.with_format(None)
        self._tasks = self._pairs.select_columns(list(TASK))
        self._rows: dict[str, int] = {}
        for row, pair in enumerate(self._pairs["pair_id"][:]):
            if pair is not None:
                self._rows.setdefault(pair, row)
        self._n, self._seed = n, seed
        self._rounds: dict[str, Any] = {"strategy": strategy, "seed": seed}
        self._next: dict[str, Any] = {"audit": audit, "labels_per_pair": overlap}
        self._embedder: dict[str, Any] = {
            "embedder": embedder,
            "embedder_max_length": embedder_max_length,
            "embedder_batch_size": embedder_batch_size,
            "embedder_dtype": embedder_dtype,
        }
        self._lock, self._asking = threading.RLock(), threading.Lock()
        self._leases: dict[str, _Lease] = {}
        self._decisions = Decisions(self.log)
        self._round = self._next_pairs(n)  # raises for whatever is wrong with the pairs, the labels or the options

    def next_task(self, annotator: str) -> LabelTask | None:
        """
        Get the next pair for an annotator: the pair that is already reserved for them, or else the first free pair of the round. `None`
        if no pair is free.
        """
        _check_name(annotator)
        task = self._take(annotator)
        if task is None:
            self._ask_round(annotator, 1)
            task = self._take(annotator)
        elif (few := min(FEW, self._n // 4)) > 0 and not self._asking.locked() and not self._has_free(annotator, few):
            threading.Thread(target=self._ask_early, args=(annotator, few)).start()
        return task

    def upcoming(self, annotator: str, n: int) -> list[LabelTask]:
        """The next `n` free pairs of an annotator, so that a page can prepare them. They are not reserved."""
        with self._lock:
            before = self._pair_on_lease(annotator)
            free = [pair for pair in self._round if pair != before and self._is_free(pair, annotator)]
        return [self.task(annotator, pair) for pair in free[:n]]

    def task(self, annotator: str, pair_id: str) -> LabelTask:
        """A pair as an annotator sees it. It does not have to be reserved for them."""
        if pair_id not in self._rows:
            raise ValueError(f"There is no pair with the `pair_id` {pair_id!r:.60}.")
        row = self._tasks[self._rows[pair_id]]
        # Sorted by content, so that the order is the same if the sides of the pair are swapped.
        sides = sorted("ab", key=lambda side: side_sha256(row[f"response_{side}"]))
        drawn = json.dumps([self._seed, annotator, pair_id]).encode()
        first = sides[hashlib.blake2b(drawn, digest_size=1).digest()[0] % 2]
        return LabelTask(pair_id, row["prompt"], row["response_a"], row["response_b"], first)

    def record(self, annotator: str, pair_id: str, label: str | None, *, seconds: float | None = None) -> None:
        """
        Append a decision to the log, and return once it is saved to disk. A new decision of the same annotator about the same pair
        replaces the previous one.

        Args:
            annotator (`str`):
                Name of the annotator.
            pair_id (`str`):
                Id of the pair.
            label (`str` or `None`):
                `"a"`, `"b"` or `"tie"`, for `response_a` and `response_b` of the task. `None` skips the pair.
            seconds (`float`, *optional*):
                How long the decision took, in seconds.

        Raises:
            `ValueError`: If there is no such pair, or the label is none of the four.
            `OSError`: If the log cannot be written. The decision is not recorded.
        """
        _check_name(annotator)
        check_label(label, f"of the pair {pair_id!r}")
        task = self.task(annotator, pair_id)
        with self._lock:
            self._decisions.follow()
            current = self._decisions.of(annotator, pair_id)
            if current is None or current.label != label:  # otherwise, it is a repeated request
                seen = {"shown_first": task.shown_first, "response_a_sha256": side_sha256(task.response_a)}
                took = {} if seconds is None else {"seconds": seconds}
                self._decisions.append(annotator, pair_id, {"label": label, **seen, **took})
            if self._pair_on_lease(annotator) == pair_id:
                del self._leases[annotator]

    def skip(self, annotator: str, pair_id: str, *, seconds: float | None = None) -> None:
        """Skip a pair. As in [`next_pairs`], a skipped pair counts as labeled."""
        self.record(annotator, pair_id, None, seconds=seconds)

    def undo(self, annotator: str) -> LabelTask | None:
        """Undo the last decision of an annotator, and reserve its pair for them again. Returns `None` if there is no decision."""
        _check_name(annotator)
        with self._lock:
            self._decisions.follow()
            last = self._decisions.last(annotator)
            if last is None:
                return None
            self._decisions.append(annotator, last, {"label": None, "undone": True})
            self._leases[annotator] = _Lease(last, time.monotonic() + self.lease_seconds)
            return self.task(annotator, last)

    def progress(self) -> QueueProgress:
        """Counts of pairs and decisions, which are quick to compute. [`label_progress`] tells whether to stop."""
        with self._lock:
            self._decisions.follow()
            counts = {}
            for annotator, decided in sorted(self._decisions.by_annotator.items()):
                labels = Counter(record.label for record in decided.values())
                counts[annotator] = AnnotatorCounts(labels["a"] + labels["b"], labels["tie"], labels[None])
            left = sum(map(self._is_open, self._round))
            return QueueProgress(len(self._rows), len(self._rows) - self._n_open(), left, counts)

    def label_progress(self) -> LabelProgress:
        """The result of [`label_progress`] for these pairs and this log, with the options of the queue."""
        return label_progress(self._pairs, self.log, self._n, **self._rounds, **self._embedder)

    def _take(self, annotator: str) -> LabelTask | None:
        """Reserve the first free pair."""
        with self._lock:
            self._decisions.follow()
            pair = self._pair_on_lease(annotator)
            if pair is None or not self._is_free(pair, annotator):
                pair = next((pair for pair in self._round if self._is_free(pair, annotator)), None)
            if pair is None:
                self._leases.pop(annotator, None)
                return None
            self._leases[annotator] = _Lease(pair, time.monotonic() + self.lease_seconds)
            return self.task(annotator, pair)

    def _pair_on_lease(self, annotator: str) -> str | None:
        lease = self._leases.get(annotator)
        return None if lease is None else lease.pair

    def _is_free(self, pair: str, annotator: str) -> bool:
        """Whether an annotator can get a pair, given the decisions and the leases of the others."""
        if self._decisions.of(annotator, pair) is not None:
            return False
        now = time.monotonic()
        leased = sum(
            lease.pair == pair and lease.until > now for name, lease in self._leases.items() if name != annotator
        )
        return self._decisions.counts[pair] + leased < self.overlap

    def _is_open(self, pair: str) -> bool:
        return self._decisions.counts[pair] < self.overlap

    def _n_open(self) -> int:
        counts = self._decisions.counts
        return len(self._rows) - sum(count >= self.overlap for pair, count in counts.items())

    def _has_free(self, annotator: str, n: int) -> bool:
        """Whether the round has `n` free pairs for an annotator."""
        with self._lock:
            return sum(self._is_free(pair, annotator) for pair in self._round) >= n

    def _next_pairs(self, n: int) -> list[str]:
        found: list[str] = next_pairs(self._pairs, self.log, n, **self._rounds, **self._next, **self._embedder)[
            "pair_id"
        ][:]
        return found

    def _ask_round(self, annotator: str, enough: int) -> None:
        """Add the next round to the rest of this one, unless the rest is enough for the annotator or there are no other pairs."""
        with self._asking:
            with self._lock:
                left = list(filter(self._is_open, self._round))
                if self._has_free(annotator, enough) or len(left) == self._n_open():
                    return
            found = self._next_pairs(self._n + len(left))  # some of them belong to the current round
            with self._lock:
                self._round = list(dict.fromkeys([*left, *found]))

    def _ask_early(self, annotator: str, few: int) -> None:
        try:
            self._ask_round(annotator, few)
        except Exception as error:  # the same error is raised when an annotator waits for the round
            logger.warning("The next round cannot be picked: %s", error)


def _check_name(annotator: object) -> None:
    if not isinstance(annotator, str) or not annotator.strip():
        raise ValueError(f"`annotator` must be a name, found {kind(annotator)}.")

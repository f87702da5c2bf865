"""Scores from functions, in the form of TRL's `reward_funcs`."""

import logging
import math
import uuid
from collections.abc import Callable
from typing import Any

from datasets.fingerprint import Hasher

from ..core.columns import kind
from ..core.messages import as_json
from .resume import Job, Record, ResumeLog, content_key, run_jobs


logger = logging.getLogger(__name__)


class RewardFunctions:
    """
    Calls functions with the responses of one prompt at a time, and adds up what they return.

    Args:
        functions (`list[Callable]`):
            Functions of `prompts`, `completions` and the other columns, each a list with one item for each response. They
            return a list of numbers, with `None` where they do not apply.
    """

    def __init__(self, functions: list[Callable[..., Any]]):
        self.name = ", ".join(getattr(function, "__name__", type(function).__name__) for function in functions)
        self.notes: list[str] = []
        self.identity = ["functions", *map(_hash, functions)]
        self._functions = functions

    def score(self, rows: list[dict[str, Any]], log: ResumeLog) -> list[list[float | None]]:
        """The scores of the responses of each row."""
        jobs = [Job(content_key(self.identity, as_json(row)), row) for row in rows]
        results = run_jobs(jobs, self._score_batches, log, 1, f"Scoring with {self.name}")
        return [results[job.key] for job in jobs]

    def _score_batches(self, batches: list[list[Job]], record: Record) -> None:
        for batch in batches:
            record({job.key: self._score(job.payload) for job in batch})

    def _score(self, row: dict[str, Any]) -> list[float | None]:
        responses = row["responses"]
        columns = {
            name: [value] * len(responses) for name, value in row.items() if name not in ("prompt", "responses")
        }
        scores = [
            _check(
                function,
                function(prompts=[row["prompt"]] * len(responses), completions=responses, **columns),
                len(responses),
            )
            for function in (self._functions if responses else ())
        ]
        given = [[score for score in response if score is not None] for response in zip(*scores, strict=True)]
        return [sum(numbers) if numbers else None for numbers in given]


def _hash(function: Callable[..., Any]) -> str:
    """A hash of a function and all that it refers to."""
    try:
        return str(Hasher.hash(function))
    except Exception as error:  # whatever an object raises that cannot be pickled
        name = getattr(function, "__name__", type(function).__name__)
        logger.warning("`%s` cannot be hashed, so that a run which is interrupted begins anew: %s", name, error)
        return uuid.uuid4().hex


def _check(function: Callable[..., Any], returned: Any, n: int) -> list[float | None]:
    """What a function returned as numbers, or an error that names it."""
    name = getattr(function, "__name__", type(function).__name__)
    try:
        scores = [None if score is None else float(score) for score in returned]
    except (TypeError, ValueError):
        scores = None
    if scores is None or len(scores) != n:
        raise ValueError(
            f"The function `{name}` must return one number, or `None`, for each of {n} completions, got {kind(returned)}."
        )
    return [score if score is not None and math.isfinite(score) else None for score in scores]

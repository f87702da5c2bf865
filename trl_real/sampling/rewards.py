"""Score responses with functions, in the form of TRL's `reward_funcs`."""

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
    Call functions with the responses of one prompt at a time, and add up the scores that they return.

    Args:
        functions (`list[Callable]`):
            Functions of `prompts`, `completions` and the other columns. Each argument is a list with one item per response.
            A function returns one number per response, or `None` if it does not apply to a response.
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
    """A hash of a function and of everything that it refers to."""
    try:
        return str(Hasher.hash(function))
    except Exception as error:  # pickling an object may raise anything
        name = getattr(function, "__name__", type(function).__name__)
        logger.warning("`%s` cannot be hashed, so an interrupted run will start over: %s", name, error)
        return uuid.uuid4().hex


def _check(function: Callable[..., Any], returned: Any, n: int) -> list[float | None]:
    """Convert the scores of a function to floats, or raise an error that names the function."""
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

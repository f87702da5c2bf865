"""Scores for candidates: `score_responses`."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from datasets import Dataset, Features, List, Value, concatenate_datasets

from ..core.columns import kind
from ..core.messages import is_list
from .chat_api import ChatAPI
from .judge import CRITERIA, Judge
from .options import check_dataset, check_speed, read_prompts
from .resume import ResumeLog, default_log
from .rewards import RewardFunctions


logger = logging.getLogger(__name__)


class Scorer(Protocol):
    """
    What gives scores.

    Attributes:
        name (`str`): How it is called.
        identity (`list`): What tells it from all others.
        notes (`list[str]`): What a user should know of the scores.
    """

    name: str
    identity: list[Any]
    notes: list[str]

    def score(self, rows: list[dict[str, Any]], log: ResumeLog) -> list[list[float | None]]: ...


@dataclass
class ScoreCounts:
    """
    What came out of scoring, in numbers.

    Attributes:
        prompts, responses (`int`): How many there are.
        missing (`int`): Responses without a score.
        tied (`int`): Prompts whose scores are all the same.
        notes (`list[str]`): What the scorer says of them.
    """

    prompts: int
    responses: int
    missing: int
    tied: int
    notes: list[str]

    def __str__(self) -> str:
        return f"{self.responses - self.missing} of {self.responses} responses to {self.prompts} prompts have a score."

    def warnings(self) -> list[str]:
        """What a user should know of."""
        lines = list(self.notes)
        if self.missing:
            lines.append(f"{self.missing} of {self.responses} responses have no score. They will form no pair.")
        if self.tied:
            lines.append(f"{self.tied} of {self.prompts} prompts have equal scores only, and will form no pair.")
        return lines


def score_responses(
    candidates: Dataset,
    model: Any,
    *,
    base_url: str | None = None,
    api_key_env: str = "OPENAI_API_KEY",
    criteria: str = CRITERIA,
    batch_size: int = 16,
    dtype: str = "auto",
    concurrency: int = 8,
    resume_from: str | Path | None = None,
) -> Dataset:
    r"""
    Score the responses of candidates with a reward model, a judge or a function: what [`select_preferences`] needs to know
    which response of a pair is the better one.

    A judge is a chat model that compares the responses of a prompt in pairs, each pair in both orders. A response gets the share
    of its pairs that it won, where a tie, or two orders that disagree, count half. An answer that is none of "A", "B" and
    "tie" is missing: its pair counts for nothing.

    A run that was interrupted goes on where it was, as that of [`generate_responses`] does.

    Args:
        candidates ([`~datasets.Dataset`]):
            A dataset with columns `prompt` and `responses`, of text or messages. Other columns stay.
        model (`str`, [`~transformers.PreTrainedModel`], `Callable` or `list[Callable]`):
            A reward model, by Hub id, path, or as an object: one that classifies sequences, with one output. With
            `base_url` the name of a judge there. Or functions in the form of TRL's `reward_funcs`, called with `prompts`,
            `completions` and the other columns of one prompt; the scores of several functions are added up.
        base_url (`str`, *optional*):
            The URL of a server that speaks the chat protocol of OpenAI.
        api_key_env (`str`, *optional*, defaults to `"OPENAI_API_KEY"`):
            The environment variable with the key for `base_url`.
        criteria (`str`, *optional*, defaults to `"more helpful, correct and clear"`):
            What a judge is asked for: the end of the question "Which one is …?".
        batch_size (`int`, *optional*, defaults to `16`):
            How many responses a reward model scores at once.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Precision of a reward model that is loaded: `"float32"`, `"bfloat16"`, `"float16"`, or `"auto"` for bfloat16 where
            the hardware computes in it natively and float32 elsewhere.
        concurrency (`int`, *optional*, defaults to `8`):
            How many questions to a judge are under way at a time.
        resume_from (`str` or `Path`, *optional*):
            The log of what was scored: read first, then added to. If `None`, a file in the cache of `datasets`.

    Returns:
        [`~datasets.Dataset`]: The candidates with a column `scores`, a number for each response, or null where there is none.

    Raises:
        `TypeError`, `ValueError`: If an argument or a column cannot be what it is, the model is no reward model, or nothing
            got a score.
        `OSError`: If the model cannot be loaded, or the disk is full.
        `PermissionError`: If the server refuses the key.
        `FileNotFoundError`: If the server does not know the judge.
        `ConnectionError`: If the server does not answer after some tries.
        `BlockingIOError`: If another process scores to the same log.

    Example:

    ```python
    >>> from trl_real import load_sample, score_responses

    >>> def brevity(prompts, completions, **kwargs):
    ...     return [-len(completion) for completion in completions]

    >>> candidates = load_sample().remove_columns("scores")
    >>> score_responses(candidates, brevity).column_names
    ['topic', 'prompt', 'responses', 'scores']
    ```
    """
    where = {"base_url": base_url, "api_key_env": api_key_env, "criteria": criteria}
    speed = {"batch_size": batch_size, "dtype": dtype, "concurrency": concurrency}
    scored, counts = score_candidates(candidates, model, resume_from, **where, **speed)
    for line in counts.warnings():
        logger.warning("%s", line)
    return scored


def score_candidates(
    candidates: Dataset, model: Any, resume_from: str | Path | None, **how: Any
) -> tuple[Dataset, ScoreCounts]:
    """[`score_responses`] with what came out in numbers."""
    check_dataset("candidates", candidates, ("prompt", "responses"))
    if "scores" in candidates.column_names:
        raise ValueError("`candidates` has a column `scores` already. Remove it or rename it.")
    if not is_list(candidates.features["responses"]):
        raise ValueError(f"Column `responses` must have lists, found {candidates.features['responses']}.")
    read_prompts(candidates)
    scorer = make_scorer(model, **how)
    rows = [{**row, "responses": row["responses"] or []} for row in candidates.with_format(None)]
    with ResumeLog(resume_from or default_log("scores", scorer.identity)) as log:
        scores = scorer.score(rows, log)
    flat = [score for row in scores for score in row]
    if flat and all(score is None for score in flat):
        raise ValueError(
            " ".join([f"None of the {len(flat)} responses got a score from {scorer.name}.", *scorer.notes])
        )
    added = Dataset.from_dict({"scores": scores}, features=Features({"scores": List(Value("float64"))}))
    given = [[score for score in row if score is not None] for row in scores]
    counts = ScoreCounts(
        prompts=len(rows),
        responses=len(flat),
        missing=flat.count(None),
        tied=sum(len(row) > 1 and len(set(row)) == 1 for row in given),
        notes=scorer.notes,
    )
    return concatenate_datasets([candidates, added], axis=1), counts


def make_scorer(
    model: Any, base_url: str | None, api_key_env: str, criteria: str, batch_size: int, dtype: str, concurrency: int
) -> Scorer:
    """What gives the scores."""
    check_speed(batch_size, dtype, concurrency)
    if base_url is not None:
        return Judge(ChatAPI(base_url, model, api_key_env), criteria, concurrency)
    functions = model if isinstance(model, list | tuple) else [model]
    if isinstance(model, str) or hasattr(model, "state_dict"):
        from .reward_model import RewardModel

        return RewardModel(model, batch_size, dtype)
    if functions and all(map(callable, functions)):
        return RewardFunctions(list(functions))
    raise TypeError(
        "`model` must be a reward model, the name of a judge at `base_url`, a function or a list of functions, got "
        f"{kind(model)}."
    )

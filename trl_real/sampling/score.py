"""Score candidate responses: `score_responses`."""

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
    A source of scores.

    Attributes:
        name (`str`): The name of the scorer.
        identity (`list`): Values that identify the scorer.
        notes (`list[str]`): Warnings about the scores.
    """

    name: str
    identity: list[Any]
    notes: list[str]

    def score(self, rows: list[dict[str, Any]], log: ResumeLog) -> list[list[float | None]]: ...


@dataclass
class ScoreCounts:
    """
    The counts of a scoring run.

    Attributes:
        prompts, responses (`int`): The number of prompts and responses.
        missing (`int`): Responses without a score.
        tied (`int`): Prompts whose scores are all the same.
        notes (`list[str]`): Warnings of the scorer.
    """

    prompts: int
    responses: int
    missing: int
    tied: int
    notes: list[str]

    def __str__(self) -> str:
        return f"{self.responses - self.missing} of {self.responses} responses to {self.prompts} prompts have a score."

    def warnings(self) -> list[str]:
        """The warnings to show to the user."""
        lines = list(self.notes)
        if self.missing:
            lines.append(f"{self.missing} of {self.responses} responses have no score. They will not form pairs.")
        if self.tied:
            lines.append(
                f"For {self.tied} of {self.prompts} prompts all scores are equal. These prompts will not form pairs."
            )
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
    Score the responses of candidates with a reward model, a judge or a function. With scores, [`select_preferences`] knows
    which response of a pair is better.

    A judge is a chat model that compares the responses of a prompt in pairs, each pair in both orders. The score of a response
    is the share of its pairs that it won. A tie counts half, and so do two orders with different verdicts. If an answer is
    neither "A", "B" nor "tie", its pair is not counted.

    An interrupted run resumes, as with [`generate_responses`].

    Args:
        candidates ([`~datasets.Dataset`]):
            A dataset with columns `prompt` and `responses`, of text or messages. Other columns are kept.
        model (`str`, [`~transformers.PreTrainedModel`], `Callable` or `list[Callable]`):
            One of:

            - a reward model, as a Hub id, a local path or a model object: a sequence classification model with one output;
            - with `base_url`, the name of a judge on the server;
            - a function or a list of functions in the form of TRL's `reward_funcs`. A function is called once per prompt, with
              `prompts`, `completions` and the other columns. The scores of several functions are added up.
        base_url (`str`, *optional*):
            URL of an OpenAI-compatible server.
        api_key_env (`str`, *optional*, defaults to `"OPENAI_API_KEY"`):
            The environment variable with the API key for `base_url`.
        criteria (`str`, *optional*, defaults to `"more helpful, correct and clear"`):
            The end of the question "Which one is …?" that a judge answers.
        batch_size (`int`, *optional*, defaults to `16`):
            Number of responses that a reward model scores at once.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Precision in which to load a reward model: `"float32"`, `"bfloat16"`, `"float16"` or `"auto"`. `"auto"` uses
            bfloat16 on hardware with native support for it, and float32 otherwise.
        concurrency (`int`, *optional*, defaults to `8`):
            Maximum number of concurrent requests to a judge.
        resume_from (`str` or `Path`, *optional*):
            The log of scores to resume from. It is read first, then appended to. If `None`, a file in the cache of `datasets`.

    Returns:
        [`~datasets.Dataset`]: The candidates with a column `scores`: one number per response, or null if it has no score.

    Raises:
        `TypeError`, `ValueError`: If an argument or a column is not valid, the model is not a reward model, or no response
            got a score.
        `OSError`: If the model cannot be loaded, or the disk is full.
        `PermissionError`: If the server rejects the API key.
        `FileNotFoundError`: If the server does not have the judge.
        `ConnectionError`: If the server does not answer after several attempts.
        `BlockingIOError`: If another process writes to the same log.

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
    """[`score_responses`], plus the counts of the run."""
    check_dataset("candidates", candidates, ("prompt", "responses"))
    if "scores" in candidates.column_names:
        raise ValueError("`candidates` has a column `scores` already. Remove it or rename it.")
    if not is_list(candidates.features["responses"]):
        raise ValueError(f"Column `responses` must contain lists, found {candidates.features['responses']}.")
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
    """Create the scorer for a model, a judge or functions."""
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

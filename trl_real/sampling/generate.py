"""Sample candidate responses to prompts: `generate_responses`."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from datasets import Dataset, Features, List, Value, concatenate_datasets

from ..core.checks import check_count
from ..core.messages import MESSAGES, as_json
from .chat_api import ChatAPI, ChatBackend
from .options import SamplingOptions, check_dataset, check_speed, read_prompts
from .resume import Job, Record, Results, ResumeLog, content_key, default_log, run_jobs


logger = logging.getLogger(__name__)

BACKENDS = ("transformers", "vllm")


class Backend(Protocol):
    """
    A model to sample from.

    Attributes:
        name (`str`): The name of the model.
        identity (`list`): Values that identify the model and how it runs.
        batch_size (`int`): The number of responses sampled at once.
        refused (`dict`): The keys of the samples without a response, each with the reason.
    """

    name: str
    identity: list[Any]
    batch_size: int

    @property
    def refused(self) -> dict[str, str]: ...

    def sample(self, batches: list[list[Job]], record: Record) -> None: ...


@dataclass
class SamplingCounts:
    """
    The counts of a sampling run.

    Attributes:
        prompts, responses (`int`): The number of prompts and responses.
        empty (`int`): Responses without text.
        cut (`int`): Responses that reached the token limit.
        identical (`int`): Prompts whose responses are all the same.
        refused (`list[str]`): One reason for each response that could not be sampled.
    """

    prompts: int
    responses: int
    empty: int
    cut: int
    identical: int
    refused: list[str]

    def __str__(self) -> str:
        return f"{self.responses} responses to {self.prompts} prompts."

    def warnings(self) -> list[str]:
        """The warnings to show to the user."""
        lines = []
        if self.refused:
            lines.append(f"{len(self.refused)} responses could not be sampled. The first: {self.refused[0]}.")
        if self.empty:
            lines.append(f"{self.empty} of {self.responses} responses are empty. They will not form pairs.")
        if self.cut:
            lines.append(f"{self.cut} of {self.responses} responses were cut at `max_new_tokens`.")
        if self.identical:
            lines.append(
                f"For {self.identical} of {self.prompts} prompts all responses are identical. These prompts will not form "
                "pairs: raise `temperature`."
            )
        return lines


def generate_responses(
    prompts: Dataset,
    model: Any,
    n: int = 4,
    *,
    backend: str = "transformers",
    base_url: str | None = None,
    api_key_env: str = "OPENAI_API_KEY",
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 256,
    system_prompt: str | None = None,
    seed: int = 0,
    batch_size: int = 16,
    dtype: str = "auto",
    concurrency: int = 8,
    resume_from: str | Path | None = None,
) -> Dataset:
    r"""
    Sample `n` responses to each prompt. The result is a dataset of candidates for [`select_preferences`], or for
    [`score_responses`] first.

    A chat model receives a text prompt as one user message, and a base model receives it unchanged; the responses are text.
    Prompts that are lists of messages get responses that are lists of messages.

    An interrupted run resumes: each response is saved to disk before the next batch begins. If a prompt is too long for the
    model, or the server rejects it, the prompt has fewer responses or none. A warning counts the missing responses.

    Args:
        prompts ([`~datasets.Dataset`]):
            A dataset with a column `prompt` of text or messages. Other columns are kept.
        model (`str`, [`~transformers.PreTrainedModel`] or `list` of them):
            The model: a Hub id, a local path or a model object. With `base_url`, the name of the model on the server. If it
            is a list, each model gives `n` responses to each prompt.
        n (`int`, *optional*, defaults to `4`):
            Number of responses to sample per prompt and model.
        backend (`str`, *optional*, defaults to `"transformers"`):
            The library that runs a model on this machine: `"transformers"` or `"vllm"`.
        base_url (`str`, *optional*):
            URL of an OpenAI-compatible server to sample from, such as `"http://localhost:8000/v1"`. If `None`, the model runs
            on this machine.
        api_key_env (`str`, *optional*, defaults to `"OPENAI_API_KEY"`):
            The environment variable with the API key for `base_url`.
        temperature (`float`, *optional*, defaults to `1.0`):
            Sampling temperature. 0 takes the most probable token at each step.
        top_p (`float`, *optional*, defaults to `1.0`):
            Sample only from the most probable tokens whose probabilities add up to `top_p`.
        max_new_tokens (`int`, *optional*, defaults to `256`):
            Maximum number of tokens per response.
        system_prompt (`str`, *optional*):
            System message for prompts that have none. The column `prompt` does not change.
        seed (`int`, *optional*, defaults to `0`):
            Random seed. The random numbers of a response depend only on the seed, on its prompt and on its index among the
            `n` responses.
        batch_size (`int`, *optional*, defaults to `16`):
            Number of responses that Transformers samples at once.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Precision in which to load the model: `"float32"`, `"bfloat16"`, `"float16"` or `"auto"`. `"auto"` uses bfloat16 on
            hardware with native support for it, and float32 otherwise.
        concurrency (`int`, *optional*, defaults to `8`):
            Maximum number of concurrent requests to `base_url`.
        resume_from (`str` or `Path`, *optional*):
            The log of sampled responses to resume from. It is read first, then appended to. If `None`, a file in the cache of
            `datasets`.

    Returns:
        [`~datasets.Dataset`]: The prompts with two more columns: `responses`, and `generators` with the name of the model of
        each response.

    Raises:
        `TypeError`, `ValueError`: If an argument or the column `prompt` is not valid.
        `ImportError`: If vLLM is not installed.
        `OSError`: If the model cannot be loaded, or the disk is full.
        `PermissionError`: If the server rejects the API key.
        `FileNotFoundError`: If the server does not have the model.
        `ConnectionError`: If the server does not answer after several attempts.
        `BlockingIOError`: If another process writes to the same log.

    Example:

    ```python
    from datasets import Dataset
    from trl_real import generate_responses

    prompts = Dataset.from_dict({"prompt": ["Name a prime.", "Why is the sky blue?"]})
    candidates = generate_responses(prompts, "Qwen/Qwen2.5-0.5B-Instruct", n=4, max_new_tokens=64)
    candidates.column_names  # ['prompt', 'responses', 'generators']
    ```
    """
    options = SamplingOptions(temperature, top_p, max_new_tokens, system_prompt, seed)
    where = {"backend": backend, "base_url": base_url, "api_key_env": api_key_env}
    speed = {"batch_size": batch_size, "dtype": dtype, "concurrency": concurrency}
    candidates, counts = sample_candidates(prompts, model, n, options, resume_from, **where, **speed)
    for line in counts.warnings():
        logger.warning("%s", line)
    return candidates


def sample_candidates(
    prompts: Dataset, model: Any, n: int, options: SamplingOptions, resume_from: str | Path | None, **how: Any
) -> tuple[Dataset, SamplingCounts]:
    """[`generate_responses`], plus the counts of the run."""
    check_dataset("prompts", prompts, ("prompt",))
    check_count("n", n)
    if options.temperature == 0 and n > 1:
        raise ValueError(f"`temperature=0` makes all `n={n}` responses to a prompt the same. Raise it, or set `n=1`.")
    if taken := [name for name in ("responses", "generators") if name in prompts.column_names]:
        raise ValueError(f"`prompts` has a column `{taken[0]}` already. Remove it or rename it.")
    texts, conversational = read_prompts(prompts)
    models = list(model) if isinstance(model, list | tuple) else [model]
    if not models:
        raise ValueError("`model` is an empty list. Name at least one.")
    sampled: list[list[dict[str, Any]]] = [[] for _ in texts]
    generators: list[list[str]] = [[] for _ in texts]
    refused: list[str] = []
    for one in models:
        backend = make_backend(one, options, **how)
        for row, results in enumerate(_sample(backend, texts, n, options, resume_from)):
            sampled[row] += results
            generators[row] += [backend.name] * len(results)
        refused += backend.refused.values()
    if refused and not any(sampled):
        raise ValueError(f"No prompt got a response. The first: {refused[0]}.")
    item: Any = MESSAGES if conversational else Value("string")
    responses = [[as_response(result["text"], conversational) for result in results] for results in sampled]
    features = Features({"responses": List(item), "generators": List(Value("string"))})
    added = Dataset.from_dict({"responses": responses, "generators": generators}, features=features)
    counts = SamplingCounts(
        prompts=len(texts),
        responses=sum(map(len, sampled)),
        empty=sum(not result["text"].strip() for results in sampled for result in results),
        cut=sum(not result["finished"] for results in sampled for result in results),
        identical=sum(len(results) > 1 and len({result["text"] for result in results}) == 1 for results in sampled),
        refused=refused,
    )
    return concatenate_datasets([prompts, added], axis=1), counts


def make_backend(
    model: Any,
    options: SamplingOptions,
    backend: str,
    base_url: str | None,
    api_key_env: str,
    batch_size: int,
    dtype: str,
    concurrency: int,
) -> Backend:
    """Create the backend that samples from a model."""
    check_speed(batch_size, dtype, concurrency)
    if backend not in BACKENDS:
        raise ValueError(f"`backend` must be one of {list(BACKENDS)}, got {backend!r}.")
    if base_url is not None:
        if backend != "transformers":
            raise ValueError(
                f"`backend={backend!r}` runs the model on this machine, and `base_url` uses a server. Set only one of them."
            )
        return ChatBackend(ChatAPI(base_url, model, api_key_env), options, concurrency)
    if backend == "vllm":
        from .vllm_backend import VLLMBackend

        return VLLMBackend(model, options, dtype)
    from .transformers_backend import TransformersBackend

    return TransformersBackend(model, options, batch_size, dtype)


def as_response(text: str, conversational: bool) -> Any:
    """A response in the form of its prompt: text, or a list with one message."""
    return [{"role": "assistant", "content": text}] if conversational else text


def _sample(
    backend: Backend, prompts: list[Any], n: int, options: SamplingOptions, resume_from: str | Path | None
) -> list[list[dict[str, Any]]]:
    """The results of one model for each prompt."""
    identity = ["generate", backend.identity, options.identity()]
    jobs = [[Job(content_key(identity, as_json(p), index), (p, index)) for index in range(n)] for p in prompts]
    # Batches hold prompts of similar length, to keep padding small.
    order = sorted(range(len(prompts)), key=lambda row: len(as_json(prompts[row])))
    with ResumeLog(resume_from or default_log("responses", *identity)) as log:
        results: Results = run_jobs(
            [job for row in order for job in jobs[row]],
            backend.sample,
            log,
            backend.batch_size,
            f"Sampling from {backend.name}",
        )
    return [[results[job.key] for job in samples if job.key in results] for samples in jobs]

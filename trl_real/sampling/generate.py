"""From prompts to candidates: `generate_responses`."""

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
        name (`str`): How the model is called.
        identity (`list`): What tells it from all others.
        batch_size (`int`): How many responses it samples at once.
        refused (`dict`): Why prompts got no response, by the keys of their samples.
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
    What came out of sampling, in numbers.

    Attributes:
        prompts, responses (`int`): How many there are.
        empty (`int`): Responses without text.
        cut (`int`): Responses that reached the limit of tokens.
        identical (`int`): Prompts whose responses are all the same.
        refused (`list[str]`): Why responses could not be sampled, one reason each.
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
        """What a user should know of."""
        lines = []
        if self.refused:
            lines.append(f"{len(self.refused)} responses could not be sampled. The first: {self.refused[0]}.")
        if self.empty:
            lines.append(f"{self.empty} of {self.responses} responses are empty. They will form no pair.")
        if self.cut:
            lines.append(f"{self.cut} of {self.responses} responses were cut at `max_new_tokens`.")
        if self.identical:
            lines.append(
                f"{self.identical} of {self.prompts} prompts have identical responses only, and will form no pair: raise "
                "`temperature`."
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
    Sample `n` responses to each prompt: candidates for [`select_preferences`], or for [`score_responses`] first.

    Prompts that are text reach a chat model as one message of the user, and a base model as they are; the responses are
    text. Prompts that are messages get responses that are messages.

    A run that was interrupted goes on where it was: each response is on the disk before the next batch begins. A prompt that
    is too long for the model, or that a server refuses, has fewer responses or none, with a warning that counts them.

    Args:
        prompts ([`~datasets.Dataset`]):
            A dataset with a column `prompt`, of text or messages. Other columns stay.
        model (`str`, [`~transformers.PreTrainedModel`] or `list` of them):
            The model, by Hub id, path, or as an object; with `base_url` its name there. Of several models each gives `n`
            responses to each prompt.
        n (`int`, *optional*, defaults to `4`):
            How many responses to sample to each prompt.
        backend (`str`, *optional*, defaults to `"transformers"`):
            What runs a model on this machine: `"transformers"` or `"vllm"`.
        base_url (`str`, *optional*):
            The URL of a server that speaks the chat protocol of OpenAI, such as `"http://localhost:8000/v1"`, to sample there
            instead.
        api_key_env (`str`, *optional*, defaults to `"OPENAI_API_KEY"`):
            The environment variable with the key for `base_url`.
        temperature (`float`, *optional*, defaults to `1.0`):
            What logits are divided by.
        top_p (`float`, *optional*, defaults to `1.0`):
            Sample among the most probable tokens that have this probability together.
        max_new_tokens (`int`, *optional*, defaults to `256`):
            The most tokens that a response may have.
        system_prompt (`str`, *optional*):
            What the model is told first, where a prompt has no system message of its own. The column `prompt` stays as it is.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the samples. The random numbers of a response depend on the seed, its prompt and its number alone.
        batch_size (`int`, *optional*, defaults to `16`):
            How many responses Transformers samples at once.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Precision of a model that is loaded: `"float32"`, `"bfloat16"`, `"float16"`, or `"auto"` for bfloat16 where the
            hardware computes in it natively and float32 elsewhere.
        concurrency (`int`, *optional*, defaults to `8`):
            How many requests to `base_url` are under way at a time.
        resume_from (`str` or `Path`, *optional*):
            The log of what was sampled: read first, then added to. If `None`, a file in the cache of `datasets`.

    Returns:
        [`~datasets.Dataset`]: The prompts with columns `responses` and `generators`, the name of the model of each response.

    Raises:
        `TypeError`, `ValueError`: If an argument or the column `prompt` cannot be what it is.
        `ImportError`: If vLLM is not installed.
        `OSError`: If the model cannot be loaded, or the disk is full.
        `PermissionError`: If the server refuses the key.
        `FileNotFoundError`: If the server does not know the model.
        `ConnectionError`: If the server does not answer after some tries.
        `BlockingIOError`: If another process samples to the same log.

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
    """[`generate_responses`] with what came out in numbers."""
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
    """What samples from a model."""
    check_speed(batch_size, dtype, concurrency)
    if backend not in BACKENDS:
        raise ValueError(f"`backend` must be one of {list(BACKENDS)}, got {backend!r}.")
    if base_url is not None:
        if backend != "transformers":
            raise ValueError(f"`backend={backend!r}` runs a model here, and `base_url` is a server. Give one of them.")
        return ChatBackend(ChatAPI(base_url, model, api_key_env), options, concurrency)
    if backend == "vllm":
        from .vllm_backend import VLLMBackend

        return VLLMBackend(model, options, dtype)
    from .transformers_backend import TransformersBackend

    return TransformersBackend(model, options, batch_size, dtype)


def as_response(text: str, conversational: bool) -> Any:
    """A response in the form of its prompt."""
    return [{"role": "assistant", "content": text}] if conversational else text


def _sample(
    backend: Backend, prompts: list[Any], n: int, options: SamplingOptions, resume_from: str | Path | None
) -> list[list[dict[str, Any]]]:
    """The results of one model, by prompt."""
    identity = ["generate", backend.identity, options.identity()]
    jobs = [[Job(content_key(identity, as_json(p), index), (p, index)) for index in range(n)] for p in prompts]
    # Prompts of about the same length share a batch, so that little of it is padding.
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

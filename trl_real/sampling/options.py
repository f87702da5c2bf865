"""Sampling options, and the checks of prompts."""

import hashlib
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from ..config import EMBEDDER_DTYPES
from ..core.checks import check_count, check_number, check_seed
from ..core.columns import column_names, first_values, kind
from ..core.messages import as_json, as_message, is_messages


@dataclass(frozen=True)
class SamplingOptions:
    """
    The options that determine the tokens of a response, besides the model, the prompt and the index of the sample.

    Args:
        temperature (`float`, *optional*, defaults to `1.0`):
            Sampling temperature. 0 takes the most probable token at each step.
        top_p (`float`, *optional*, defaults to `1.0`):
            Sample only from the most probable tokens whose probabilities add up to `top_p`.
        max_new_tokens (`int`, *optional*, defaults to `256`):
            Maximum number of tokens per response.
        system_prompt (`str`, *optional*):
            System message for prompts that have none.
        seed (`int`, *optional*, defaults to `0`):
            Random seed.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    system_prompt: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (("temperature", 0, 100), ("top_p", 0, 1)):
            if getattr(self, name) is None:
                raise ValueError(f"`{name}` must be a number from {low} to {high}, got None.")
            check_number(name, getattr(self, name), low, high)
        if self.top_p == 0:
            raise ValueError("`top_p` must be above 0. For the most probable token set `temperature=0`.")
        check_count("max_new_tokens", self.max_new_tokens)
        check_seed("seed", self.seed)
        if not isinstance(self.system_prompt, str | None):
            raise TypeError(f"`system_prompt` must be a str, got {kind(self.system_prompt)}.")

    def identity(self) -> list[Any]:
        """The values of all options, normalized so that equal numbers give the same identity."""
        return [
            float(self.temperature),
            float(self.top_p),
            int(self.max_new_tokens),
            self.system_prompt,
            int(self.seed),
        ]

    def messages(self, prompt: Any) -> list[dict[str, Any]]:
        """A prompt as messages, including the system message."""
        messages = clean(as_message(prompt, "user"))
        if self.system_prompt is None or messages[0]["role"] == "system":
            return messages
        return [{"role": "system", "content": self.system_prompt}, *messages]

    def seed_of(self, prompt: Any, index: int) -> int:
        """The seed of a sample, which depends only on the seed of the run, its prompt and its index."""
        text = f"{self.seed} {index} {as_json(prompt)}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def clean(messages: Any) -> Any:
    """Messages without the nulls that Arrow adds to messages with fewer keys."""
    return [{name: value for name, value in message.items() if value is not None} for message in messages]


def check_speed(batch_size: Any, dtype: Any, concurrency: Any) -> None:
    """Raise unless the options that affect only the speed are valid."""
    check_count("batch_size", batch_size)
    check_count("concurrency", concurrency)
    if dtype not in EMBEDDER_DTYPES:
        raise ValueError(f"`dtype` must be one of {list(EMBEDDER_DTYPES)}, got {dtype!r}.")


def check_dataset(name: str, dataset: Any, needed: tuple[str, ...]) -> None:
    """Raise unless `dataset`, the argument `name`, is a [`~datasets.Dataset`] with rows and the columns `needed`."""
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"`{name}` must be a `datasets.Dataset`, got {type(dataset).__name__}. Convert a list of prompts with "
            "`Dataset.from_dict({'prompt': prompts})`, or select one split of a `DatasetDict`."
        )
    if missing := [column for column in needed if column not in dataset.column_names]:
        raise ValueError(
            f"`{name}` has no column `{missing[0]}`. Found: {column_names(dataset)}. Rename yours with `rename_column`."
        )
    if len(dataset) == 0:
        raise ValueError(f"`{name}` has no rows.")


def read_prompts(dataset: Dataset) -> tuple[list[Any], bool]:
    """The prompts, and whether they are messages. Raise if a prompt is empty, or neither text nor messages."""
    prompts = list(dataset.with_format(None)["prompt"])
    conversational = any(isinstance(prompt, list) for prompt in first_values(dataset.with_format(None), "prompt"))
    for r, prompt in enumerate(prompts):
        if not prompt or not (isinstance(prompt, str) or is_messages(prompt)):
            raise ValueError(
                f"Column `prompt`, row {r}: expected non-empty text or a non-empty list of messages, found {kind(prompt)}. "
                "Correct or remove the row."
            )
    return prompts, conversational

"""What responses are sampled with, and how prompts are read."""

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
    What the tokens of a response depend on, beside the model, the prompt and the number of the sample.

    Args:
        temperature (`float`, *optional*, defaults to `1.0`):
            What logits are divided by. 0 takes the most probable token.
        top_p (`float`, *optional*, defaults to `1.0`):
            Sample among the most probable tokens that have this probability together.
        max_new_tokens (`int`, *optional*, defaults to `256`):
            The most tokens that a response may have.
        system_prompt (`str`, *optional*):
            What to begin a conversation with, where a prompt has no system message of its own.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the samples.
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
        """What responses depend on, the same for numbers that are equal."""
        return [
            float(self.temperature),
            float(self.top_p),
            int(self.max_new_tokens),
            self.system_prompt,
            int(self.seed),
        ]

    def messages(self, prompt: Any) -> list[dict[str, Any]]:
        """A prompt as messages, with the system message."""
        messages = clean(as_message(prompt, "user"))
        if self.system_prompt is None or messages[0]["role"] == "system":
            return messages
        return [{"role": "system", "content": self.system_prompt}, *messages]

    def seed_of(self, prompt: Any, index: int) -> int:
        """The seed of a sample, from what identifies it alone."""
        text = f"{self.seed} {index} {as_json(prompt)}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def clean(messages: Any) -> Any:
    """Messages without the nulls that Arrow gives to those with fewer keys."""
    return [{name: value for name, value in message.items() if value is not None} for message in messages]


def check_speed(batch_size: Any, dtype: Any, concurrency: Any) -> None:
    """Raise unless the options of how fast to go are what they can be."""
    check_count("batch_size", batch_size)
    check_count("concurrency", concurrency)
    if dtype not in EMBEDDER_DTYPES:
        raise ValueError(f"`dtype` must be one of {list(EMBEDDER_DTYPES)}, got {dtype!r}.")


def check_dataset(name: str, dataset: Any, needed: tuple[str, ...]) -> None:
    """Raise unless `dataset`, the argument `name`, is a [`~datasets.Dataset`] with rows and the columns `needed`."""
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"`{name}` must be a `datasets.Dataset`, got {type(dataset).__name__}. Of a list of prompts make one with "
            "`Dataset.from_dict({'prompt': prompts})`; of a `DatasetDict` take a split."
        )
    if missing := [column for column in needed if column not in dataset.column_names]:
        raise ValueError(
            f"`{name}` has no column `{missing[0]}`. Found: {column_names(dataset)}. Rename yours with `rename_column`."
        )
    if len(dataset) == 0:
        raise ValueError(f"`{name}` has no rows.")


def read_prompts(dataset: Dataset) -> tuple[list[Any], bool]:
    """The prompts, and whether they are messages; raises if one is neither text nor messages, or empty."""
    prompts = list(dataset.with_format(None)["prompt"])
    conversational = any(isinstance(prompt, list) for prompt in first_values(dataset.with_format(None), "prompt"))
    for r, prompt in enumerate(prompts):
        if not prompt or not (isinstance(prompt, str) or is_messages(prompt)):
            raise ValueError(
                f"Column `prompt`, row {r}: expected text or a list of messages that is not empty, found {kind(prompt)}. "
                "Remove the row or mend it."
            )
    return prompts, conversational

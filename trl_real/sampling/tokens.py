"""Turn prompts into the tokens that a model continues."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from ..core.messages import is_messages
from ..embedding.identity import cached_commit, folder_digest, resolved_dtype
from .options import SamplingOptions


def load_tokenizer(model: Any) -> Any:
    """The tokenizer of a model, given by id, path or object. It always has a padding token."""
    name = model if isinstance(model, str) else getattr(model, "name_or_path", "")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise OSError(f"The model {name!r} cannot be loaded: {error}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_config(model: Any) -> Any:
    """The configuration of a model, given by id, path or object."""
    if not isinstance(model, str):
        return model.config
    try:
        return AutoConfig.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise OSError(f"The model {model!r} cannot be loaded: {error}") from error


def model_identity(model: Any) -> list[str | None]:
    """Values that identify a model: its name and commit, a hash of its files, or a hash of its weights."""
    if isinstance(model, str):
        return [folder_digest(model)] if Path(model).is_dir() else [model, cached_commit(model)]
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in model.state_dict().items():
        digest.update(f"{name} {weight.dtype} {list(weight.shape)}".encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().data)
    return [model_name(model), digest.hexdigest()]


def model_name(model: Any) -> str:
    """The name of a model in the column `generators` and in messages."""
    return model if isinstance(model, str) else getattr(model, "name_or_path", "") or type(model).__name__


def as_dtype(dtype: str) -> Any:
    """The torch dtype for the value of an option."""
    return getattr(torch, resolved_dtype(dtype))


def max_positions(config: Any) -> int | None:
    """The maximum number of tokens of prompt and response together; `None` if the configuration does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


class PromptTokens:
    """
    Turn a prompt into tokens, with the chat template if the tokenizer has one, and as plain text otherwise.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer of the model.
        options ([`SamplingOptions`]):
            The sampling options, for the system prompt and the maximum length of a response.
        name (`str`):
            The name of the model, for messages.
        positions (`int`, *optional*):
            The maximum number of tokens of the model.
    """

    def __init__(self, tokenizer: Any, options: SamplingOptions, name: str, positions: int | None):
        self.tokenizer, self.options, self.name, self.positions = tokenizer, options, name, positions
        if options.system_prompt is not None and tokenizer.chat_template is None:
            raise ValueError(f"`system_prompt` needs a chat template, but the tokenizer of {name!r} has none.")
        if positions is not None and options.max_new_tokens >= positions:
            raise ValueError(
                f"`max_new_tokens={options.max_new_tokens}` leaves no room for a prompt within the {positions} positions "
                f"of {name!r}. Lower it."
            )
        self.refused: dict[str, str] = {}

    def __call__(self, prompt: Any) -> list[int]:
        if self.tokenizer.chat_template is not None:
            messages = self.options.messages(prompt)
            return list(
                self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
            )
        check_template(self.tokenizer, prompt, self.name)
        return list(self.tokenizer(prompt)["input_ids"])

    def fits(self, key: str, ids: list[int]) -> bool:
        """Whether a prompt and its response fit into the model. If not, `refused` gets the reason."""
        if self.positions is None or len(ids) + self.options.max_new_tokens <= self.positions:
            return True
        self.refused[key] = (
            f"the prompt has {len(ids)} tokens, and with `max_new_tokens={self.options.max_new_tokens}` that is more than "
            f"the {self.positions} positions of {self.name!r}"
        )
        return False


def check_template(tokenizer: Any, prompt: Any, name: str) -> None:
    """Raise if a prompt is a list of messages and the tokenizer has no chat template."""
    if tokenizer.chat_template is None and is_messages(prompt):
        raise ValueError(
            f"Column `prompt` has messages, but the tokenizer of {name!r} has no chat template. Use a chat model, or "
            "text prompts."
        )

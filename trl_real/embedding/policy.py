"""The policy itself as the embedder, as in the paper: `embedder="policy"` of the trainer."""

import contextlib
import copy
import gc
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from peft import PeftModel
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.integrations import is_deepspeed_zero3_enabled
from trl.trainer.utils import create_model_from_path

from .embed import token_batches
from .embedder import MAX_LENGTH
from .identity import folder_state
from .tokens import beginnings


class PolicyEmbedder:
    """
    A causal language model as an embedder: the mean of its last hidden layer over the tokens of the response (REAL, arXiv
    2409.17169), with adapters disabled.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The policy. A model given by id or path is loaded when it is first used, and unloaded by `free`.
        processing_class ([`~transformers.PreTrainedTokenizerBase`] or [`~transformers.ProcessorMixin`], *optional*):
            The tokenizer, or a processor that has one. If `None`, the tokenizer of the model.
        max_length (`int`, *optional*):
            The maximum number of tokens of a response to embed. If `None`, the limit of the model, at most 512.
        batch_size (`int`, *optional*, defaults to `32`):
            The number of full-length texts to embed at once, see [`embed_responses`].
        model_init_kwargs (`dict`, *optional*):
            Keyword arguments for loading the model.
    """

    def __init__(
        self,
        model: Any,
        processing_class: Any = None,
        max_length: int | None = None,
        batch_size: int = 32,
        model_init_kwargs: dict[str, Any] | None = None,
    ):
        self._model, self._loaded = model, None if isinstance(model, str) else model
        self._state = _state(model)
        self._processing_class, self._max_length, self._batch_size = processing_class, max_length, batch_size
        self._model_init_kwargs = model_init_kwargs or {}
        self.name = model if isinstance(model, str) else model.config._name_or_path or type(model).__name__
        self.embedder_name = f"policy ({self.name})"

    @property
    def options(self) -> tuple[Any, int | None, int]:
        """What another model needs to embed in the same way: `processing_class`, `max_length` and `batch_size`."""
        return self._processing_class, self._max_length, self._batch_size

    @property
    def model(self) -> Any:
        """The model. It is loaded on first use."""
        if self._loaded is None:
            if _state(self._model) != self._state:
                raise ValueError(
                    f"The model in {self._model!r} has changed since this run began, perhaps because a model was saved there, but "
                    "`embedder='policy'` is the policy before training. Use another embedder."
                )
            if is_deepspeed_zero3_enabled():
                raise ValueError(
                    "`embedder='policy'` cannot embed with parameters that DeepSpeed ZeRO-3 has partitioned. Select the pairs first "
                    "with `trl-real select` and the model as `embedder`, or use another embedder."
                )
            self._loaded = create_model_from_path(self._model, **self._model_init_kwargs)
            if getattr(self._loaded, "hf_device_map", None) is None and not getattr(
                self._loaded, "is_quantized", False
            ):
                self._loaded.to(PartialState().device)
        return self._loaded

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """A tokenizer that can pad. The tokenizer of the user is not changed."""
        if self._processing_class is None:
            known = ("revision", "trust_remote_code")
            options = {name: value for name, value in self._model_init_kwargs.items() if name in known}
            self._processing_class = AutoTokenizer.from_pretrained(self.name, **options)
        tokenizer = getattr(self._processing_class, "tokenizer", self._processing_class)
        if tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                raise ValueError(
                    f"The tokenizer of {self.name!r} has neither a pad token nor an EOS token to pad with."
                )
            tokenizer = self._processing_class = copy.deepcopy(tokenizer)
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    @property
    def max_seq_length(self) -> int:
        """The maximum number of tokens of a response to embed."""
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or MAX_LENGTH
        if self._max_length is not None and self._max_length > positions:
            raise ValueError(
                f"`embedder_max_length={self._max_length}` is more than the {positions} positions of the policy. Lower it."
            )
        return self._max_length or min(positions, MAX_LENGTH)

    @torch.no_grad()
    def encode(self, sentences: list[str]) -> np.ndarray:
        """Embed texts: `(n_texts, dim)` float32."""
        model, tokenizer, limit = self.model, self.tokenizer, self.max_seq_length
        body = (model.get_base_model() if isinstance(model, PeftModel) else model).base_model
        vectors: list[np.ndarray] = []
        ids = tokenizer(beginnings(self, sentences), truncation=True, max_length=limit)["input_ids"]
        lengths = np.array([len(text) for text in ids])
        batches = list(token_batches(lengths, self._batch_size * limit, model.device.type))
        with _evaluating(model), _adapters_off(model):
            for batch in batches:
                tokens = tokenizer.pad(
                    {"input_ids": [ids[i] for i in batch]}, padding_side="right", return_tensors="pt"
                ).to(model.device)
                hidden = body(
                    input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
                ).last_hidden_state.float()  # (n, length, dim)
                mask = tokens["attention_mask"].unsqueeze(-1).float()
                vectors.append(((hidden * mask).sum(1) / mask.sum(1).clamp(min=1)).cpu().numpy())
        return np.concatenate(vectors)[np.argsort(np.concatenate(batches))]

    def fingerprint(self) -> str:
        """A hash of everything that the vectors depend on: the tokenizer and the weights without adapters."""
        digest = hashlib.blake2b(f"{self.max_seq_length} {_tokenizer_state(self.tokenizer)}".encode(), digest_size=16)
        for name, weight in base_parameters(self.model):
            digest.update(f"{name} {weight.dtype} {list(weight.shape)}".encode())
            digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def free(self) -> None:
        """Unload a model that was loaded from an id or path."""
        if isinstance(self._model, str):
            self._loaded = None
            gc.collect()
            torch.cuda.empty_cache()


def _state(model: Any) -> list[tuple[Any, ...]] | None:
    """A state of the model's folder that changes when something is saved to it."""
    return folder_state(model) if isinstance(model, str) and Path(model).is_dir() else None


def base_parameters(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters of a model without those of adapters, with their names in the base model."""
    adapters = set(getattr(model, "peft_config", None) or ())
    for name, weight in model.named_parameters():
        if not adapters:
            yield name, weight
        elif adapters.isdisjoint(name.split(".")):
            yield re.sub(r"^base_model\.model\.|\.(base_layer|original_module)(?=\.)", "", name), weight


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Put every module into evaluation mode, and restore its own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextlib.contextmanager
def _adapters_off(model: Any) -> Iterator[None]:
    if isinstance(model, PeftModel):
        with model.disable_adapter():
            yield
    elif getattr(model, "_hf_peft_config_loaded", False):  # by `add_adapter` of Transformers
        model.disable_adapters()
        try:
            yield
        finally:
            model.enable_adapters()
    else:
        yield


def _tokenizer_state(tokenizer: Any) -> str:
    """The state of a tokenizer, without padding and truncation, which each call sets."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return repr(sorted(tokenizer.get_vocab().items()))
    state = json.loads(backend.to_str())
    return json.dumps({name: part for name, part in state.items() if name not in ("padding", "truncation")})

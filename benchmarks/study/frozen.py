"""The lowest layers of a model that LoRA leaves alone: each text passes through them once, however often it is trained on."""

import copy
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, PreTrainedModel


class FrozenLayers(nn.Module):
    """
    The token embeddings and the lowest layers, in the place of the token embeddings. In a causal model, what they say of a token does
    not depend on the tokens after it, and so not on the padding.

    Args:
        embed_tokens (`nn.Embedding`): Of the model.
        lower (`nn.Module`): A model that maps the embeddings of tokens to the output of these layers.
        pad_token_id (`int`): What batches are padded with, on the right.
    """

    def __init__(self, embed_tokens: nn.Embedding, lower: nn.Module, pad_token_id: int):
        super().__init__()
        self.embed_tokens, self.lower, self.pad_token_id = embed_tokens, lower, pad_token_id
        self._known: dict[bytes, torch.Tensor] = {}

    @property
    def weight(self) -> torch.Tensor:
        return self.embed_tokens.weight

    @torch.no_grad()
    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        length = input_ids.shape[1]
        padding = (input_ids != self.pad_token_id).flip(1).int().argmax(1)
        # The token that ends a text may be the padding token, so one of them is kept.
        texts = [ids[: length - max(int(n) - 1, 0)] for ids, n in zip(input_ids, padding, strict=True)]
        keys = [ids.cpu().numpy().tobytes() for ids in texts]
        new = {key: ids for key, ids in zip(keys, texts, strict=True) if key not in self._known}
        if new:
            batch = pad_sequence(list(new.values()), batch_first=True, padding_value=self.pad_token_id)
            states = self.lower(inputs_embeds=self.embed_tokens(batch), use_cache=False).last_hidden_state
            for (key, ids), state in zip(new.items(), states, strict=True):
                self._known[key] = state[: len(ids)].clone()
        states = pad_sequence([self._known[key] for key in keys], batch_first=True)
        return nn.functional.pad(states, (0, 0, 0, length - states.shape[1]))


def load_with_frozen_layers(path: str | Path, layers: int, pad_token_id: int) -> PreTrainedModel:
    """A causal language model in float32 whose `layers` lowest layers are frozen and remember the texts that they have seen."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    lower = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).base_model
    lower.layers, lower.norm = lower.layers[:layers], nn.Identity()
    lower.requires_grad_(False)
    base = model.base_model
    base.layers = base.layers[layers:]
    if model.config.tie_word_embeddings:
        model.set_output_embeddings(copy.deepcopy(model.get_output_embeddings()))
    base.embed_tokens = FrozenLayers(lower.embed_tokens, lower, pad_token_id)
    model.config.num_hidden_layers = len(base.layers)
    model.config.tie_word_embeddings = model.config.use_cache = False
    return model

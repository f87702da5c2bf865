"""Sample responses with vLLM, if it is installed."""

import importlib.util
from functools import cached_property
from typing import Any

from .options import SamplingOptions
from .resume import Job, Record
from .tokens import PromptTokens, load_config, load_tokenizer, max_positions, model_identity, model_name


# vLLM makes its own batches. After a crash, at most this many responses are sampled again.
BATCH = 512


class VLLMBackend:
    """
    Sample with vLLM's `LLM`. Each response has its own seed.

    Args:
        model (`str`):
            The Hub id or path of the model.
        options ([`SamplingOptions`]):
            The sampling options.
        dtype (`str`):
            Precision of the model.
    """

    def __init__(self, model: Any, options: SamplingOptions, dtype: str):
        if importlib.util.find_spec("vllm") is None:
            raise ImportError('`backend="vllm"` needs vLLM: `pip install vllm`.')
        if not isinstance(model, str):
            raise TypeError(f'`backend="vllm"` needs the id or path of a model, got {type(model).__name__}.')
        self.name, self.batch_size = model_name(model), BATCH
        self._options, self._dtype = options, dtype
        self.tokens = PromptTokens(load_tokenizer(model), options, self.name, max_positions(load_config(model)))
        self.identity = ["vllm", dtype, *model_identity(model)]

    @property
    def refused(self) -> dict[str, str]:
        """The keys of the samples without a response, each with the reason."""
        return self.tokens.refused

    @cached_property
    def model(self) -> Any:
        from vllm import LLM

        return LLM(model=self.name, dtype=self._dtype, trust_remote_code=False, generation_config="vllm")

    def sample(self, batches: list[list[Job]], record: Record) -> None:
        from vllm import SamplingParams

        options = self._options
        for batch in batches:
            ids = {job.key: self.tokens(job.payload[0]) for job in batch}
            batch = [job for job in batch if self.tokens.fits(job.key, ids[job.key])]
            params = [
                SamplingParams(
                    temperature=options.temperature,
                    top_p=options.top_p,
                    max_tokens=options.max_new_tokens,
                    seed=options.seed_of(*job.payload),
                )
                for job in batch
            ]
            prompts = [{"prompt_token_ids": ids[job.key]} for job in batch]
            outputs = [output.outputs[0] for output in self.model.generate(prompts, params)] if batch else []
            record(
                {
                    job.key: {"text": output.text, "finished": output.finish_reason == "stop"}
                    for job, output in zip(batch, outputs, strict=True)
                }
            )

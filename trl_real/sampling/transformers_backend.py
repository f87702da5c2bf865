"""Sample responses with Transformers."""

from functools import cached_property
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from .options import SamplingOptions
from .resume import Job, Record, Results
from .tokens import PromptTokens, as_dtype, load_config, load_tokenizer, max_positions, model_identity, model_name


class SeededSampling(LogitsProcessor):
    """
    Sample the token of each row with random numbers of that row, so that rows do not depend on each other.

    Args:
        uniforms (`torch.Tensor` of shape `(n_rows, n_steps)`):
            The random numbers, from 0 to 1.
        prompt_length (`int`):
            The number of tokens of the padded prompts.
    """

    def __init__(self, uniforms: torch.Tensor, prompt_length: int):
        self.uniforms, self.prompt_length = uniforms, prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = input_ids.shape[1] - self.prompt_length
        cumulative = scores.float().softmax(-1).cumsum(-1)  # (n_rows, vocabulary)
        # Stay below the total, which rounding may move slightly away from 1.
        drawn = self.uniforms[:, step : step + 1].to(scores.device) * (1 - 1e-6) * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, drawn, right=True)
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


class TransformersBackend:
    """
    Sample in batches with a causal language model.

    The random numbers of a sample depend only on the seed, its prompt and its index. Its logits also depend on rounding,
    which varies with the batch, the precision and the number of threads.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`]):
            The Hub id or path of the model, or a model object, which stays on its device.
        options ([`SamplingOptions`]):
            The sampling options.
        batch_size (`int`):
            Number of responses to sample at once.
        dtype (`str`):
            Precision in which to load the model.
    """

    def __init__(self, model: Any, options: SamplingOptions, batch_size: int, dtype: str):
        self.name, self.batch_size = model_name(model), batch_size
        self._model, self._options, self._dtype = model, options, dtype
        self.tokens = PromptTokens(load_tokenizer(model), options, self.name, max_positions(load_config(model)))
        self.identity = ["transformers", dtype if isinstance(model, str) else None, *model_identity(model)]

    @property
    def refused(self) -> dict[str, str]:
        """The keys of the samples without a response, each with the reason."""
        return self.tokens.refused

    @cached_property
    def model(self) -> Any:
        if not isinstance(self._model, str):
            return self._model
        try:
            # Load safetensors only, and run no code from the repository.
            model = AutoModelForCausalLM.from_pretrained(
                self._model, dtype=as_dtype(self._dtype), use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise OSError(f"The model {self._model!r} cannot be loaded: {error}") from error
        return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def sample(self, batches: list[list[Job]], record: Record) -> None:
        for batch in batches:
            ids = {job.key: self.tokens(job.payload[0]) for job in batch}
            batch = [job for job in batch if self.tokens.fits(job.key, ids[job.key])]
            if batch:
                record(self._sample_batch(batch, [ids[job.key] for job in batch]))

    @torch.no_grad()
    def _sample_batch(self, batch: list[Job], ids: list[list[int]]) -> Results:
        tokenizer, model = self.tokens.tokenizer, self.model
        inputs = tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt").to(model.device)
        length = inputs["input_ids"].shape[1]
        training = model.training
        model.eval()
        try:
            output = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                generation_config=self._generation_config,
                logits_processor=self._processors(batch, length),
            )
        except torch.OutOfMemoryError as error:
            raise MemoryError(
                f"{self.name!r} ran out of memory with `batch_size={self.batch_size}`. Lower it and start again: the run "
                "resumes from the responses sampled so far."
            ) from error
        finally:
            model.train(training)
        return dict(zip((job.key for job in batch), map(self._response, output[:, length:].tolist()), strict=True))

    def _response(self, ids: list[int]) -> dict[str, Any]:
        end = next((i for i, token in enumerate(ids) if token in self._ends), None)
        return {
            "text": self.tokens.tokenizer.decode(ids[:end], skip_special_tokens=True),
            "finished": end is not None,
        }

    @cached_property
    def _ends(self) -> list[int]:
        ends = self.model.generation_config.eos_token_id
        if ends is None:
            ends = self.tokens.tokenizer.eos_token_id
        return [] if ends is None else ends if isinstance(ends, list) else [ends]

    @property
    def _generation_config(self) -> GenerationConfig:
        # Only the end-of-sequence tokens come from the model's own configuration. The user sets everything else.
        return GenerationConfig(
            do_sample=False,  # the logits processors sample
            max_new_tokens=self._options.max_new_tokens,
            eos_token_id=self._ends or None,
            pad_token_id=self.tokens.tokenizer.pad_token_id,
            repetition_penalty=1.0,
            use_cache=True,
        )

    def _processors(self, batch: list[Job], length: int) -> LogitsProcessorList:
        options, processors = self._options, LogitsProcessorList()
        if options.temperature == 0:
            return processors
        if options.temperature != 1:
            processors.append(TemperatureLogitsWarper(float(options.temperature)))
        if options.top_p < 1:
            processors.append(TopPLogitsWarper(float(options.top_p)))
        generators = (torch.Generator().manual_seed(options.seed_of(*job.payload)) for job in batch)
        uniforms = torch.stack([torch.rand(options.max_new_tokens, generator=numbers) for numbers in generators])
        processors.append(SeededSampling(uniforms, length))
        return processors

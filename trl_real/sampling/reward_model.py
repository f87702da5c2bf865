"""Score responses with a reward model: a sequence classification model with one output."""

import math
from functools import cached_property
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from ..core.messages import as_json, as_message, response_text
from .options import clean
from .resume import Job, Record, ResumeLog, content_key, run_jobs
from .tokens import as_dtype, check_template, load_config, load_tokenizer, max_positions, model_identity, model_name


class RewardModel:
    """
    Score each response on its own, given its prompt.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`]):
            The Hub id or path of the model, or a model object, which stays on its device.
        batch_size (`int`):
            Number of responses to score at once.
        dtype (`str`):
            Precision in which to load the model.
    """

    def __init__(self, model: Any, batch_size: int, dtype: str):
        self.name, self.notes = model_name(model), list[str]()
        self._model, self._batch_size, self._dtype = model, batch_size, dtype
        config = load_config(model)
        self._tokenizer, self._positions = load_tokenizer(model), max_positions(config)
        self.identity = ["reward_model", dtype if isinstance(model, str) else None, *model_identity(model)]

    @cached_property
    def model(self) -> Any:
        model = self._model if not isinstance(self._model, str) else self._load()
        if model.config.num_labels != 1:
            raise ValueError(
                f"{self.name!r} has {model.config.num_labels} outputs, but a reward model has one. Use a reward model, or a "
                "function that turns the outputs into a score."
            )
        if model.config.pad_token_id is None:  # the model uses it to find the end of a response
            model.config.pad_token_id = self._tokenizer.pad_token_id
        return model

    def _load(self) -> Any:
        try:
            # Load safetensors only, and run no code from the repository.
            model, info = AutoModelForSequenceClassification.from_pretrained(
                self._model,
                dtype=as_dtype(self._dtype),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except (OSError, ValueError) as error:
            raise OSError(f"The reward model {self._model!r} cannot be loaded: {error}") from error
        if missing := sorted(info["missing_keys"]):
            raise ValueError(
                f"{self._model!r} is not a reward model: its files have no weights for {', '.join(missing)}, so they would "
                "be random. Use a model that was trained to score."
            )
        return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def score(self, rows: list[dict[str, Any]], log: ResumeLog) -> list[list[float | None]]:
        """The scores of the responses of each row."""
        jobs = [
            [
                Job(content_key(self.identity, as_json(row["prompt"]), as_json(response)), (row["prompt"], response))
                for response in row["responses"]
            ]
            for row in rows
        ]
        # Batches hold responses of similar length, to keep padding small.
        order = sorted(
            (job for responses in jobs for job in responses if job.payload[1]),
            key=lambda job: len(as_json(job.payload[1])),
        )
        results = run_jobs(order, self._score_batches, log, self._batch_size, f"Scoring with {self.name}")
        if unfit := sum(result is None for result in results.values()):
            self.notes.append(
                f"{unfit} responses have no score: with their prompts they do not fit into the {self._positions} positions of "
                f"{self.name!r}, or the score is not a finite number."
            )
        return [[results.get(job.key) for job in responses] for responses in jobs]

    def _score_batches(self, batches: list[list[Job]], record: Record) -> None:
        for batch in batches:
            ids = {job.key: self._tokens(*job.payload) for job in batch}
            fitting = [key for key in ids if self._positions is None or len(ids[key]) <= self._positions]
            scores = dict(zip(fitting, self._score([ids[key] for key in fitting]), strict=True))
            record({key: scores.get(key) for key in ids})

    def _tokens(self, prompt: Any, response: Any) -> list[int]:
        if self._tokenizer.chat_template is None:
            check_template(self._tokenizer, prompt, self.name)
            return list(self._tokenizer(prompt + response_text(response))["input_ids"])
        messages = clean([*as_message(prompt, "user"), *as_message(response, "assistant")])
        return list(self._tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"])

    @torch.no_grad()
    def _score(self, ids: list[list[int]]) -> list[float | None]:
        if not ids:
            return []
        inputs = self._tokenizer.pad({"input_ids": ids}, padding_side="right", return_tensors="pt").to(
            self.model.device
        )
        training = self.model.training
        self.model.eval()
        try:
            logits = self.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        finally:
            self.model.train(training)
        return [score if math.isfinite(score) else None for score in logits[:, 0].float().tolist()]

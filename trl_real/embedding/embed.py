"""Turn responses into vectors: `embed_responses`."""

import contextlib
import dataclasses
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from ..candidates.batch import read_rows
from ..config import EmbedderOptions, SelectionConfig
from ..core.transform import Transform, TypedList, map_rows
from .embedder import device_of, load_embedder
from .identity import Identity, embedder_identity, embedder_name, find_model, is_static
from .tokens import read_tokens
from .unreadable import warn_of_unreadable


# Few enough prompts that the progress bar moves, enough that the embedder can sort their responses by length.
BATCH = 128
# A batch of so many tokens passes from layer to layer within the caches of a CPU: 14% faster than 8,192 in float32.
CPU_TOKENS = 2048
STORED_DTYPES = ("float32", "float16")
SMALLEST = 1e-3  # float16 has fewer digits below 6e-5
# Tokenizers keep truncation and padding as state, and a model is loaded once: threads take turns.
_one_at_a_time = threading.RLock()
if hasattr(os, "register_at_fork"):  # a worker that is forked while a thread embeds would wait for ever
    os.register_at_fork(after_in_child=_one_at_a_time._at_fork_reinit)  # type: ignore[attr-defined]


@Transform
def embed_responses(
    batch: Any,
    rank: int | None = None,
    *,
    embedder: Any = SelectionConfig.embedder,
    embedder_max_length: int | None = SelectionConfig.embedder_max_length,
    embedder_batch_size: int = SelectionConfig.embedder_batch_size,
    embedder_dtype: str = SelectionConfig.embedder_dtype,
    embeddings_dtype: str = "float32",
) -> Any:
    r"""
    Embed the responses of a batch, each on its own and without its prompt. For use with `dataset.map(..., batched=True)`.

    If you keep the column `embeddings`, every strategy of [`real_select`] uses it, and nothing is embedded again.

    Args:
        batch (`dict`):
            The columns `prompt` and `responses`, or `chosen` and `rejected`, as in [`real_select`].
        rank (`int`, *optional*):
            The rank of the worker, which `dataset.map(..., with_rank=True, num_proc=n)` passes. Worker `rank` uses GPU `rank`
            modulo the number of GPUs. If `None`, or without a GPU, Sentence Transformers chooses the device.
        embedder (`str` or object, *optional*, defaults to `"sentence-transformers/all-MiniLM-L6-v2"`):
            Id or path of a Sentence Transformers model or causal language model, `"static:"` and such a name for an embedder of
            one vector per token that is distilled from the model, or an object with a method `encode` that takes a list of n
            texts and returns an array of shape `(n, dim)`.
        embedder_max_length (`int`, *optional*):
            The maximum number of tokens of a response to embed. If `None`, the limit of the model, at most 512. An embedder
            object keeps its own limit.
        embedder_batch_size (`int`, *optional*, defaults to `32`):
            The number of full-length texts to embed at once. Batches of shorter texts hold more texts, but no more tokens.
            On a CPU, a batch has at most 2,048 tokens.
        embedder_dtype (`str`, *optional*, defaults to `"auto"`):
            Precision of the embedder: `"float32"`, `"bfloat16"`, `"float16"` or `"auto"`. `"auto"` uses bfloat16 on hardware
            with native support for it, and float32 otherwise.
        embeddings_dtype (`str`, *optional*, defaults to `"float32"`):
            The type of the column: `"float32"`, or `"float16"`, which halves the storage and changes cosines by up to 0.001.

    Returns:
        `dict`: The batch with three more columns:

        - `embeddings`: an array of shape `(n_responses, dim)` per row, zeros for an empty response. For given pairs, the
          vector of chosen, then that of rejected.
        - `responses_cut`: how many responses of the row were longer than the limit; null if an embedder object does not say.
        - `tokens_cut`: how many of their tokens were not embedded; null if an embedder object does not say. For a response of
          more than 65,536 characters, the number is estimated from its beginning.

    Raises:
        `ValueError`: If a column is missing, or the embedder returns another shape or numbers that are not finite.
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
    config = SelectionConfig(
        embedder=embedder,
        embedder_max_length=embedder_max_length,
        embedder_batch_size=embedder_batch_size,
        embedder_dtype=embedder_dtype,
    )
    return embed_batch(batch, config.embedder_options, rank, embeddings_dtype)


def embed_batch(batch: Any, options: EmbedderOptions, rank: int | None = None, dtype: str = "float32") -> Any:
    """[`embed_responses`] with the options of the embedder as one object."""
    if dtype not in STORED_DTYPES:
        raise ValueError(f"`embeddings_dtype` must be one of {STORED_DTYPES}, got {dtype!r}.")
    stored_type = pa.from_numpy_dtype(dtype)
    if hasattr(batch, "pa_table"):
        _check_type(batch.pa_table.schema, stored_type)
    rows = read_rows(batch, "embed_responses")
    vectors, cut = encode(rows.texts.to_pylist(), options, rank)
    vectors = _store(vectors, dtype)
    ends = np.cumsum(rows.counts)
    batch["embeddings"] = TypedList(np.split(vectors, ends)[:-1], pa.list_(pa.list_(stored_type)))
    for name, of_each in (("responses_cut", None if cut is None else cut > 0), ("tokens_cut", cut)):
        counts = [None] * len(ends) if of_each is None else _sums(of_each, rows.row_of, len(ends))
        batch[name] = TypedList(counts, pa.int64())
    return batch


def _sums(values: np.ndarray, row_of: np.ndarray, n: int) -> list[int]:
    """The sum of the values of each of n rows."""
    return np.bincount(row_of, weights=values, minlength=n).astype(np.int64).tolist()


def embed(dataset: Dataset, options: EmbedderOptions, in_memory: bool = False) -> tuple[Dataset, Identity]:
    """
    Embed the responses of a dataset without a format, with the model that `options` currently refer to.

    The result is cached next to the dataset under the identity of the embedder. If the embedder has no lasting identity, the
    result goes to a temporary file. With `in_memory`, it is kept in memory.
    """
    if isinstance(options.embedder, str):
        options = dataclasses.replace(options, found=find_model(options.embedder))
    identity = embedder_identity(options)
    embedded = map_rows(
        dataset,
        embed_batch,
        desc="Embedding responses",
        key=identity.key,
        temporary=identity.revision is None,
        keep_in_memory=in_memory,
        batch_size=BATCH,
        fn_kwargs={"options": options},
    )
    return embedded, identity


def encode(
    texts: list[str], options: EmbedderOptions, rank: int | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """
    Embed texts. Each distinct text is embedded once.

    Returns:
        `tuple[np.ndarray, np.ndarray | None]`: The vectors, `(n_texts, dim)` float32, zeros for an empty text; and the number of
        truncated tokens of each text, `(n_texts,)`, or `None` if the embedder does not say.
    """
    distinct = {text: i for i, text in enumerate(dict.fromkeys(text for text in texts if text.strip()))}
    sentences = list(distinct) or ["."]  # with nothing to embed, one text tells the dimension
    model = options.embedder
    with _one_at_a_time, _threads(isinstance(model, str) and not is_static(model)):
        if is_static(model):
            model = load_embedder(options)
            encoded, counts = model.read(sentences)
        elif isinstance(model, str):
            model = load_embedder(options, device_of(rank))
            embedded, counts = read_tokens(model, sentences)
            encoded = _encode_by_tokens(model, embedded, counts, options.batch_size)
        else:
            encoded, (_, counts) = model.encode(sentences), read_tokens(model, sentences)
    vectors = _check_vectors(encoded, sentences, embedder_name(options.embedder))
    warn_of_unreadable(sentences, vectors, model, embedder_name(options.embedder))
    cut = None if counts is None else np.maximum(counts - model.max_seq_length, 0)

    where = np.array([distinct.get(text, -1) for text in texts], dtype=np.int64)
    full = vectors[where]  # (n_texts, dim)
    full[where < 0] = 0.0
    return full, None if cut is None else np.where(where >= 0, cut[where], 0)


def _is_worker() -> bool:
    import multiprocess  # what `datasets` starts its `num_proc` workers with

    return multiprocess.parent_process() is not None or multiprocessing.parent_process() is not None


def _check_vectors(encoded: Any, sentences: list[str], name: str) -> np.ndarray:
    if hasattr(encoded, "detach"):
        encoded = encoded.detach().float().cpu()
    try:
        vectors = np.asarray(encoded, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The embedder {name} returned something that is not an array of numbers: {error}") from error
    if vectors.ndim != 2 or len(vectors) != len(sentences) or vectors.shape[1] == 0:
        raise ValueError(
            f"The embedder {name} returned an array of shape {vectors.shape} for {len(sentences)} texts, expected "
            f"({len(sentences)}, dim): `encode` must return one vector per text."
        )
    finite = np.isfinite(vectors).all(1)
    if not finite.all():
        raise ValueError(
            f"The embedder {name} returned NaN or infinity for {(~finite).sum()} of {len(sentences)} texts, the first "
            f"of them {sentences[int(finite.argmin())]!r:.80}. Try `embedder_dtype='float32'`, or another embedder."
        )
    return vectors


def _check_type(schema: pa.Schema, stored_type: pa.DataType) -> None:
    """Raise if there is a column `embeddings` of another type, which `datasets` would cast the new one to."""
    if "embeddings" not in schema.names:
        return
    column = found = schema.field("embeddings").type
    while not isinstance(found, pa.ExtensionType) and hasattr(found, "value_type"):
        found = found.value_type
    if found != stored_type:
        raise ValueError(
            f"Column `embeddings` already exists with the type {column}, and the new one has the type {stored_type}. Remove it: "
            "`dataset.remove_columns('embeddings')`."
        )


def _store(vectors: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        stored = vectors.astype(dtype, copy=False)
    largest = np.abs(vectors).max(1, initial=0.0)
    if dtype == "float16" and not (np.isfinite(stored).all() and (largest[largest > 0] > SMALLEST).all()):
        raise ValueError(
            f"`embeddings_dtype='float16'` holds vectors whose largest number lies between {SMALLEST} and 65504, and here it "
            f"lies between {largest[largest > 0].min():.3g} and {largest.max():.3g}. Store them as 'float32'."
        )
    return stored


@contextlib.contextmanager
def _threads(loads_torch: bool) -> Iterator[None]:
    """
    Use one thread in a worker. A forked worker inherits an OpenMP pool without threads, which would wait forever, and
    `num_proc` workers share the cores anyway.
    """
    if not _is_worker() or not (loads_torch or "torch" in sys.modules):
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _encode_by_tokens(model: Any, sentences: list[str], counts: np.ndarray | None, batch_size: int) -> Any:
    """Embed texts with a Sentence Transformers model in batches with a similar number of tokens, longest texts first."""
    if counts is None:
        return model.encode(sentences, batch_size=batch_size, show_progress_bar=False)
    import torch

    lengths = np.minimum(counts, model.max_seq_length)
    order, parts = [], []
    for batch in token_batches(lengths, batch_size * model.max_seq_length, model.device.type):
        texts = [sentences[i] for i in batch]
        # Left on its device, so that a GPU need not wait for the copy of each batch.
        options = {"batch_size": len(texts), "show_progress_bar": False, "convert_to_tensor": True}
        parts.append(model.encode(texts, **options))
        order.extend(batch)
    return torch.cat(parts)[np.argsort(order)]


def token_batches(lengths: np.ndarray, most: int, device: str) -> Iterator[list[int]]:
    """
    Split texts of `lengths` tokens, `(n,)`, into batches with little padding.

    Args:
        lengths (`np.ndarray` of shape `(n,)`): The number of tokens of each text that are embedded.
        most (`int`): The maximum number of tokens of a batch, including padding. A single longer text gets its own batch.
        device (`str`): The device that embeds the texts. On a CPU, a batch has at most 2,048 tokens.

    Yields:
        `list[int]`: The indices of the texts of a batch, longest first.
    """
    most = min(most, CPU_TOKENS) if device == "cpu" else most
    order = np.argsort(-lengths, kind="stable").tolist()
    start = 0
    while start < len(order):
        end = start + max(1, most // max(1, int(lengths[order[start]])))
        yield order[start:end]
        start = end

"""Embed in chunks that are saved to disk: split over the ranks, and not repeated after a restart."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import uuid
from collections.abc import Iterator
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset, concatenate_datasets, load_from_disk
from filelock import FileLock, Timeout

from ..config import EmbedderOptions
from ..core.files import remove_file, remove_folder, sha256, whole_folder
from ..core.messages import as_json
from .embed import embed
from .identity import Identity, embedder_identity, find_model


logger = logging.getLogger(__name__)

# Prompts per chunk. After a crash, each rank embeds at most this many prompts again.
CHUNK = 256
COLUMNS = ["embeddings", "responses_cut", "tokens_cut"]
# The content of the folder of a chunk.
DATA, HASHES = "data", "sha256.json"


def embed_in_chunks(dataset: Dataset, options: EmbedderOptions, folder: Path) -> tuple[Dataset, Identity]:
    """
    [`embed`] in chunks. Each chunk is embedded by one rank, or read from `folder`, which all ranks share, if it exists.

    A chunk is identified by its texts and the identity of the embedder. An object without `fingerprint()` cannot be recognized
    after a restart, so its chunks are used once and removed.
    """
    if folder.is_symlink():
        raise FileExistsError(
            f"{folder} is a link and will not be overwritten. Remove it, or choose another `output_dir`."
        )
    state = PartialState()
    options, identity = _agreed(options)
    if identity.revision is not None:
        return _embed_in_chunks(dataset, options, identity, folder, state), identity
    names = [f"unnamed-{uuid.uuid4().hex}"]
    broadcast_object_list(names)
    with _unnamed(folder / names[0]) if state.is_main_process else contextlib.nullcontext():
        embedded = _embed_in_chunks(dataset, options, identity, folder / names[0], state)
        state.wait_for_everyone()
    return embedded, identity


def _agreed(options: EmbedderOptions) -> tuple[EmbedderOptions, Identity]:
    """The identity of the embedder on all ranks, as seen by the first rank."""
    if isinstance(options.embedder, str):
        options = dataclasses.replace(options, found=find_model(options.embedder))
    shared = [options.found, embedder_identity(options)]
    broadcast_object_list(shared)
    return dataclasses.replace(options, found=shared[0]), shared[1]


@contextlib.contextmanager
def _unnamed(folder: Path) -> Iterator[None]:
    """A folder for this run only, removed on exit. A lock next to it tells other runs that it is in use."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for other in folder.parent.glob("unnamed*"):  # of runs that were killed
        if other.is_dir() and not other.is_symlink():
            with contextlib.suppress(Timeout), FileLock(_lock_of(other), timeout=0):
                remove_folder(other)
                remove_file(_lock_of(other))
    with FileLock(_lock_of(folder)):
        try:
            yield
        finally:
            remove_folder(folder)
            remove_file(_lock_of(folder))


def _lock_of(folder: Path) -> Path:
    return folder.with_suffix(".lock")


def _embed_in_chunks(
    dataset: Dataset, options: EmbedderOptions, identity: Identity, folder: Path, state: PartialState
) -> Dataset:
    dataset = dataset.remove_columns([name for name in COLUMNS if name in dataset.column_names])
    size = max(1, min(CHUNK, -(-len(dataset) // state.num_processes)))
    parts = [dataset.select(range(start, min(start + size, len(dataset)))) for start in range(0, len(dataset), size)]
    keys = list(_keys(parts, identity))
    if len({*map(tuple, gather_object([keys]))}) > 1:
        raise ValueError(
            "The processes have different rows, or the same rows in another order. Load and shuffle the data in the same way in "
            "each of them, with a fixed seed."
        )
    paths = [folder / key for key in keys]
    for number, (path, part) in enumerate(dict(zip(paths, parts, strict=True)).items()):  # equal chunks once
        if number % state.num_processes == state.process_index and not _is_whole(path):
            _write(part, options, path)
    state.wait_for_everyone()
    if missing := [path for path in paths if not path.exists()]:
        raise FileNotFoundError(
            f"{missing[0]} was written by another process: `output_dir` must be a folder that all processes share."
        )
    # Keep the data in memory if the files will be removed.
    in_memory = identity.revision is None
    embedded = [load_from_disk(str(path / DATA), keep_in_memory=in_memory) for path in paths]
    return concatenate_datasets([dataset, concatenate_datasets(embedded)], axis=1)


def _keys(parts: list[Dataset], identity: Identity) -> Iterator[str]:
    for part in parts:
        digest = hashlib.blake2b(identity.key.encode(), digest_size=16)
        texts = [name for name in ("responses", "chosen", "rejected") if name in part.column_names]
        for row in part.select_columns(texts).with_format(None):
            digest.update(as_json(row).encode())
        yield digest.hexdigest()


def _is_whole(path: Path) -> bool:
    """
    Whether a chunk exists and is undamaged. A damaged chunk is removed.

    Additional files are fine: `datasets` caches results next to the data.
    """
    if not path.exists():
        return False
    try:
        written = json.loads((path / HASHES).read_text())
        damaged = [name for name in sorted(written) if sha256(path / name) != written[name]] if written else [HASHES]
    except (OSError, ValueError, TypeError):
        damaged = [HASHES]
    if damaged:
        logger.warning("%s is damaged and will be embedded again: %s has changed.", path, damaged[0])
        remove_folder(path)
    return not damaged


def _write(part: Dataset, options: EmbedderOptions, path: Path) -> None:
    """Embed a chunk, and write it atomically."""
    embedded, _ = embed(part, options, in_memory=True)
    with whole_folder(path) as unfinished:
        embedded.select_columns(COLUMNS).save_to_disk(str(unfinished / DATA))
        files = {file.relative_to(unfinished).as_posix(): file for file in unfinished.rglob("*") if file.is_file()}
        (unfinished / HASHES).write_text(json.dumps({name: sha256(file) for name, file in files.items()}))

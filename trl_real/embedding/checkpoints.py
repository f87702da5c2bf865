"""Embedding in chunks that outlive the process: split over the ranks, and not repeated after a restart."""

import contextlib
import hashlib
import json
import logging
import uuid
from collections.abc import Iterator
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset, concatenate_datasets, load_from_disk
from filelock import FileLock, Timeout

from .. import __version__
from ..config import SelectionConfig
from ..core.files import remove_file, remove_folder, sha256, whole_folder
from ..core.messages import as_json
from .embed import embed
from .embedder import embedder_version, load_embedder
from .policy import PolicyEmbedder


logger = logging.getLogger(__name__)

# Prompts whose embeddings are written at once: what a killed run has to embed again, at most, on each rank.
CHUNK = 256
COLUMNS = ["embeddings", "responses_cut"]
# What is in the folder of a chunk.
DATA, TOKENS_CUT, HASHES = "data", "tokens_cut.json", "sha256.json"


def embed_in_chunks(dataset: Dataset, config: SelectionConfig, folder: Path) -> tuple[Dataset, int | None]:
    """
    [`preferences.embed`], each chunk by one rank and from `folder`, which all ranks see, if it is there.

    A chunk is known by its texts, the embedder with its limit, and the version of this package. Of an embedder that is an object
    nobody knows whether it is the same after a restart: its chunks are used once and removed.
    """
    if folder.is_symlink():
        raise FileExistsError(
            f"{folder} is a link, which is not written to. Remove it, or choose another `output_dir`."
        )
    state = PartialState()
    if isinstance(config.embedder, str | PolicyEmbedder):
        return _embed_in_chunks(dataset, config, folder, state)
    names = [f"unnamed-{uuid.uuid4().hex}"]
    broadcast_object_list(names)
    with _unnamed(folder / names[0]) if state.is_main_process else contextlib.nullcontext():
        result = _embed_in_chunks(dataset, config, folder / names[0], state)
        state.wait_for_everyone()
    return result


@contextlib.contextmanager
def _unnamed(folder: Path) -> Iterator[None]:
    """A folder of this run alone, removed in the end. A lock beside it tells others that it is in use."""
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
    dataset: Dataset, config: SelectionConfig, folder: Path, state: PartialState
) -> tuple[Dataset, int | None]:
    dataset = dataset.remove_columns([name for name in COLUMNS if name in dataset.column_names])
    size = max(1, min(CHUNK, -(-len(dataset) // state.num_processes)))
    parts = [dataset.select(range(start, min(start + size, len(dataset)))) for start in range(0, len(dataset), size)]
    paths = [folder / key for key in _keys(parts, config)]
    for number, (path, part) in enumerate(dict(zip(paths, parts, strict=True)).items()):  # equal chunks once
        if number % state.num_processes == state.process_index and not _is_whole(path):
            _write(part, config, path)
    state.wait_for_everyone()
    if missing := [path for path in paths if not path.exists()]:
        raise FileNotFoundError(
            f"{missing[0]} was written by another process: `output_dir` must be a folder that all see."
        )
    # In memory where the files are about to be removed.
    in_memory = not isinstance(config.embedder, str | PolicyEmbedder)
    embedded = [load_from_disk(str(path / DATA), keep_in_memory=in_memory) for path in paths]
    tokens = [json.loads((path / TOKENS_CUT).read_text()) for path in paths]
    dataset = concatenate_datasets([dataset, concatenate_datasets(embedded)], axis=1)
    return dataset, None if None in tokens else sum(tokens)


def _keys(parts: list[Dataset], config: SelectionConfig) -> Iterator[str]:
    embedder = [config.embedder_max_length, *_identity(config)]
    for part in parts:
        digest = hashlib.blake2b(json.dumps([__version__, embedder]).encode(), digest_size=16)
        texts = [name for name in ("responses", "chosen", "rejected") if name in part.column_names]
        for row in part.select_columns(texts).with_format(None):
            digest.update(as_json(row).encode())
        yield digest.hexdigest()


def _identity(config: SelectionConfig) -> list[str | None]:
    """What an embedder is known by, the same on all ranks."""
    if isinstance(config.embedder, PolicyEmbedder):
        return [config.embedder.fingerprint()]
    if isinstance(config.embedder, str):
        # Loaded, so that the revision of a model of the Hub is the one that embeds.
        load_embedder(config.embedder, config.embedder_max_length, config.embedder_dtype, None)
        return [config.embedder, embedder_version(config.embedder), config.embedder_dtype]
    return []  # whose chunks lie in a folder of their own


def _is_whole(path: Path) -> bool:
    """Whether a chunk is there with the bytes that were written; a damaged one is removed."""
    if not path.exists():
        return False
    try:
        written, found = json.loads((path / HASHES).read_text()), _hashes(path)
        damaged = [name for name in sorted({*written, *found}) if written.get(name) != found.get(name)]
    except (OSError, ValueError, AttributeError):
        damaged = [HASHES]
    if damaged:
        logger.warning("%s is damaged and embedded again: %s is not as it was written.", path, damaged[0])
        remove_folder(path)
    return not damaged


def _hashes(path: Path) -> dict[str, str]:
    """The SHA-256 of each file of a chunk."""
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    return {name: sha256(file) for name, file in files.items() if name != HASHES}


def _write(part: Dataset, config: SelectionConfig, path: Path) -> None:
    """Embed a chunk and put it in its place in one go, so that no half of one is ever found there."""
    embedded, tokens_cut = embed(part, config)
    with whole_folder(path) as unfinished:
        embedded.select_columns(COLUMNS).save_to_disk(str(unfinished / DATA))
        (unfinished / TOKENS_CUT).write_text(json.dumps(tokens_cut))
        (unfinished / HASHES).write_text(json.dumps(_hashes(unfinished)))

"""Embedding in chunks that outlive the process: split over the ranks, and not repeated after a restart."""

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset, concatenate_datasets, load_from_disk

from .. import __version__
from ..config import SelectionConfig
from ..core.messages import as_json
from .embed import embed
from .embedder import embedder_version, load_embedder
from .policy import PolicyEmbedder


logger = logging.getLogger(__name__)

# Prompts whose embeddings are written at once: what a killed run has to embed again, at most, on each rank.
CHUNK = 256
COLUMNS = ["embeddings", "responses_cut"]


def embed_in_chunks(dataset: Dataset, config: SelectionConfig, folder: Path) -> tuple[Dataset, int | None]:
    """
    [`preferences.embed`], each chunk by one rank and from `folder`, which all ranks see, if it is there.

    A chunk is known by its texts, the embedder with its limit, and the version of this package. Of an embedder that is an object
    nobody knows whether it is the same after a restart: its chunks are used once and removed.
    """
    state = PartialState()
    keep = isinstance(config.embedder, str | PolicyEmbedder)
    if not keep:
        folder = folder / "unnamed"
        if state.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        state.wait_for_everyone()
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
    embedded = [load_from_disk(str(path / "data"), keep_in_memory=not keep) for path in paths]
    tokens = [json.loads((path / "tokens_cut.json").read_text()) for path in paths]
    state.wait_for_everyone()
    if not keep and state.is_main_process:
        shutil.rmtree(folder)
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
    names = [uuid.uuid4().hex]
    broadcast_object_list(names)
    return [names[0]]


def _is_whole(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        len(load_from_disk(str(path / "data")))
        json.loads((path / "tokens_cut.json").read_text())
    except (OSError, ValueError) as error:
        logger.warning("%s is damaged and embedded again: %s", path, error)
        shutil.rmtree(path)
        return False
    return True


def _write(part: Dataset, config: SelectionConfig, path: Path) -> None:
    """Embed a chunk and put it in its place in one go, so that no half of one is ever found there."""
    embedded, tokens_cut = embed(part, config)
    unfinished = path.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
    embedded.select_columns(COLUMNS).save_to_disk(str(unfinished / "data"))
    (unfinished / "tokens_cut.json").write_text(json.dumps(tokens_cut))
    unfinished.rename(path)

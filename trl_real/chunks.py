"""Embedding in chunks that outlive the process: split over the ranks, and not repeated after a restart."""

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset, concatenate_datasets, load_from_disk

from . import __version__
from .config import SelectionConfig
from .messages import as_json
from .policy import PolicyEmbedder
from .preferences import EMBED_OPTIONS, embed


# Prompts whose embeddings are written at once: what a killed run has to embed again, at most, on each rank.
CHUNK = 256
COLUMNS = ["embeddings", "responses_cut"]


def embed_in_chunks(dataset: Dataset, config: SelectionConfig, folder: Path) -> tuple[Dataset, int | None]:
    """
    [`preferences.embed`], each chunk by one rank and from `folder`, which all ranks see, if it is there.

    A chunk is known by its texts, the embedder and its options, and the version of this package. Of an embedder that is an
    object nobody knows whether it is the same after a restart: its chunks are used once and removed.
    """
    state = PartialState()
    embedder, keep = _identity(config)
    size = max(1, min(CHUNK, -(-len(dataset) // state.num_processes)))
    parts = [dataset.select(range(start, min(start + size, len(dataset)))) for start in range(0, len(dataset), size)]
    paths = [folder / key for key in _keys(parts, config, embedder)]
    for number, (path, part) in enumerate(dict(zip(paths, parts, strict=True)).items()):  # equal chunks once
        if number % state.num_processes == state.process_index and not path.exists():
            _write(part, config, path)
    state.wait_for_everyone()
    # In memory where the files are about to be removed.
    embedded = [load_from_disk(str(path / "data"), keep_in_memory=not keep) for path in paths]
    tokens = [json.loads((path / "tokens_cut.json").read_text()) for path in paths]
    state.wait_for_everyone()
    if not keep and state.is_main_process:
        for path in set(paths):
            shutil.rmtree(path)
    dataset = concatenate_datasets([dataset, concatenate_datasets(embedded)], axis=1)
    return dataset, None if None in tokens else sum(tokens)


def _identity(config: SelectionConfig) -> tuple[str, bool]:
    """What an embedder is known by, the same on all ranks, and whether that will be so after a restart."""
    if isinstance(config.embedder, PolicyEmbedder):
        return config.embedder.fingerprint(), True
    if isinstance(config.embedder, str):
        return config.embedder, True
    names = [uuid.uuid4().hex]
    broadcast_object_list(names)
    return names[0], False


def _keys(parts: list[Dataset], config: SelectionConfig, embedder: str) -> Iterator[str]:
    options = {name: getattr(config, name) for name in EMBED_OPTIONS if name != "embedder"}
    for part in parts:
        digest = hashlib.blake2b(json.dumps([__version__, embedder, options]).encode(), digest_size=16)
        texts = [name for name in ("responses", "chosen", "rejected") if name in part.column_names]
        for row in part.select_columns(texts).with_format(None):
            digest.update(as_json(row).encode())
        yield digest.hexdigest()


def _write(part: Dataset, config: SelectionConfig, path: Path) -> None:
    """Embed a chunk and put it in its place in one go, so that no half of one is ever found there."""
    embedded, tokens_cut = embed(part, config)
    unfinished = path.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
    embedded.select_columns(COLUMNS).save_to_disk(str(unfinished / "data"))
    (unfinished / "tokens_cut.json").write_text(json.dumps(tokens_cut))
    unfinished.rename(path)

"""Whether the disk has room for what a selection is going to write."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from ..candidates.batch import Candidates, read_rows
from ..candidates.eligibility import find_eligible
from ..config import SelectionConfig


# These find a pair for each prompt that has one, so that it is known how many there will be.
CERTAIN = ("easy", "hard", "random")
BATCH = 1000


def check_disk_space(candidates: Dataset, config: SelectionConfig, folder: Path) -> None:
    """
    Raise if even the smallest pairs that can be selected do not fit on the disk of `folder`.

    Args:
        candidates ([`~datasets.Dataset`]):
            What is selected from.
        config ([`SelectionConfig`]):
            How, and how much.
        folder (`Path`):
            Where the pairs will be written to.

    Raises:
        `OSError`: If they do not fit for sure.
    """
    free = shutil.disk_usage(folder).free
    if free > 2 * candidates._estimate_nbytes() or config.strategy not in CERTAIN:
        return  # nothing to worry about, or nothing to be sure of
    sizes = np.sort(np.concatenate([_least_bytes(batch, config) for batch in candidates.iter(batch_size=BATCH)]))
    needed = int(sizes[: _pairs(config, len(sizes))].sum())
    if needed > free:
        raise OSError(
            f"`output_dir`: the pairs take at least {needed:,} bytes, and the disk of {folder} has {free:,} left. Make "
            "room, or choose another `output_dir` or a smaller `budget`."
        )


def _pairs(config: SelectionConfig, n_prompts: int) -> int:
    """How many pairs there will be at least."""
    if config.budget_cost is not None or config.budget_min_distance is not None:
        return 0
    budget = n_prompts if config.budget is None else config.budget
    return min(n_prompts, budget if isinstance(budget, int) else int(budget * n_prompts))


def _least_bytes(batch: dict[str, list[Any]], config: SelectionConfig) -> np.ndarray:
    """The fewest bytes that a pair of each prompt takes, of those that have one: its prompt, and the two shortest texts."""
    rows = read_rows(batch, "`trl-real select`")
    texts = pc.binary_length(rows.texts).to_numpy(zero_copy_only=False)
    texts = np.where(texts > 0, texts, np.iinfo(np.int64).max // 4) if isinstance(rows, Candidates) else texts
    two = [np.sort(row)[:2].sum() for row in np.split(texts, np.cumsum(rows.counts)[:-1])]
    prompts = [len(prompt.encode()) if isinstance(prompt, str) else 0 for prompt in batch.get("prompt", [])]
    sizes = np.array(two) + np.array(prompts or 0)
    reasons = find_eligible(rows, config.min_score_gap).reasons
    return sizes[[reason is None for reason in reasons]]

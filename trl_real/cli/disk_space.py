"""Check that the disk has space for the pairs of a selection."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from ..candidates.batch import Candidates, read_rows
from ..candidates.eligibility import find_eligible
from ..config import SelectionConfig


# These strategies find a pair for every prompt with an eligible pair, so the number of pairs is known in advance.
CERTAIN = ("easy", "hard", "random")
BATCH = 1000


def check_disk_space(candidates: Dataset, config: SelectionConfig, folder: Path) -> None:
    """
    Raise if even the smallest pairs that can be selected do not fit on the disk of `folder`.

    Args:
        candidates ([`~datasets.Dataset`]):
            The candidates to select from.
        config ([`SelectionConfig`]):
            The options of the selection.
        folder (`Path`):
            The folder for the pairs.

    Raises:
        `OSError`: If the pairs cannot fit.
    """
    free = shutil.disk_usage(folder).free
    if free > 2 * candidates._estimate_nbytes() or config.strategy not in CERTAIN:
        return  # there is enough space, or the number of pairs is unknown
    sizes = np.sort(np.concatenate([_least_bytes(batch, config) for batch in candidates.iter(batch_size=BATCH)]))
    needed = int(sizes[: _pairs(config, len(sizes))].sum())
    if needed > free:
        raise OSError(
            f"`output_dir`: the pairs take at least {needed:,} bytes, but the disk of {folder} has {free:,} left. Free up "
            "space, or choose another `output_dir` or a smaller `budget`."
        )


def _pairs(config: SelectionConfig, n_prompts: int) -> int:
    """The minimum number of pairs of a selection."""
    if config.budget_cost is not None or config.budget_min_distance is not None:
        return 0
    budget = n_prompts if config.budget is None else config.budget
    return min(n_prompts, budget if isinstance(budget, int) else int(budget * n_prompts))


def _least_bytes(batch: dict[str, list[Any]], config: SelectionConfig) -> np.ndarray:
    """For each prompt with a pair, the minimum size of the pair in bytes: the prompt and the two shortest responses."""
    rows = read_rows(batch, "`trl-real select`")
    texts = pc.binary_length(rows.texts).to_numpy(zero_copy_only=False)
    texts = np.where(texts > 0, texts, np.iinfo(np.int64).max // 4) if isinstance(rows, Candidates) else texts
    two = [np.sort(row)[:2].sum() for row in np.split(texts, np.cumsum(rows.counts)[:-1])]
    prompts = [len(prompt.encode()) if isinstance(prompt, str) else 0 for prompt in batch.get("prompt", [])]
    sizes = np.array(two) + np.array(prompts or 0)
    reasons = find_eligible(rows, config.min_score_gap).reasons
    return sizes[[reason is None for reason in reasons]]

"""Sample pairs with unequal weights: `sample_weights` of [`RealDPOConfig`]."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import WeightedRandomSampler


class WeightedSampler(WeightedRandomSampler):
    """
    Sample as many rows per epoch as there are, with replacement, each with a probability proportional to its weight.

    The rows of an epoch depend only on the seed and the number of the epoch. They are the same in every process, and after a
    resumed run.

    Args:
        weights (`np.ndarray` of shape `(n,)`): The weight of each row, at least 0.
        seed (`int`): Seed of the sample.
    """

    def __init__(self, weights: np.ndarray, seed: int):
        super().__init__(weights.tolist(), len(weights), generator=torch.Generator())
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch. Accelerate calls this."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(self.seed + self.epoch)
        return super().__iter__()


def read_weights(pairs: Any, column: str) -> np.ndarray:
    """The weights in a column of the training pairs, `(n,)`. Raise if the column cannot be used as weights."""
    if not isinstance(pairs, Dataset):
        raise TypeError(
            f"`sample_weights={column!r}` needs a `datasets.Dataset` as `train_dataset`, got {type(pairs).__name__}. A stream "
            "cannot be sampled by weight."
        )
    if column not in pairs.column_names:
        raise ValueError(
            f"`sample_weights={column!r}`: `train_dataset` has no such column. Found: {pairs.column_names}. "
            "`apply_labels(..., aggregate='dawid_skene')` adds `label_confidence`."
        )
    dtype = getattr(pairs.features[column], "dtype", "list")
    if not dtype.startswith(("float", "int", "uint")):
        raise TypeError(f"`sample_weights={column!r}`: the column must have numbers, got {dtype}.")
    weights = np.array(pairs[column], dtype=np.float64)
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        raise ValueError(
            f"`sample_weights={column!r}`: a weight must be a number of at least 0. Row {wrong[0]} has "
            f"{pairs[int(wrong[0])][column]!r}, and {len(wrong)} of {len(weights)} rows have no such number."
        )
    if not weights.any():
        raise ValueError(f"`sample_weights={column!r}`: all weights are 0, so no pair can be sampled.")
    return weights

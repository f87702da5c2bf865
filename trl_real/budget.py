"""From many pairs to the ones that the budget allows: `select_budget`."""

import logging
import math

import numpy as np
import pyarrow as pa
from datasets import Dataset

from .config import check_budget, check_seed
from .strategies import STRATEGIES, check_strategy


logger = logging.getLogger(__name__)


def select_budget(dataset: Dataset, budget: float, strategy: str = "easy", seed: int = 0) -> Dataset:
    r"""
    Keep the pairs that are most worth a label, in their order.

    On pairs as they come out of [`real_select`], one or more a prompt, this spends a budget; on given pairs it is the
    paper's selection for HH-RLHF (arXiv 2409.17169), which keeps the half with the lowest similarity.

    Args:
        dataset ([`~datasets.Dataset`]):
            Pairs with a column `similarity`, from [`real_select`].
        budget (`int` or `float`):
            How many pairs to keep, as in scikit-learn's `train_size`: a float between 0 and 1 is a share, rounded
            down, an int is a count. A count above the number of pairs keeps all, with a warning.
        strategy (`str`, *optional*, defaults to `"easy"`):
            Which pairs to keep: the least similar for `"easy"` and `"centroid"`, the most similar for `"hard"`, a
            sample for `"random"`. Of equally similar pairs the earlier are kept; a similarity of NaN or null comes
            last.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the sample.

    Returns:
        [`~datasets.Dataset`]: The kept rows.

    Raises:
        `TypeError`: If `dataset` is no [`~datasets.Dataset`].
        `ValueError`: If it has no column `similarity`, or the budget or strategy is not valid or keeps nothing.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from trl_real import select_budget

    >>> pairs = Dataset.from_dict({"chosen": ["a", "b", "c"], "similarity": [0.9, 0.1, 0.5]})
    >>> select_budget(pairs, 2)["chosen"][:]
    ['b', 'c']
    ```
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"`select_budget` needs a `datasets.Dataset`, whose pairs can be ranked, got {type(dataset).__name__}. Load "
            "the data without `streaming=True`."
        )
    check_strategy(strategy)
    check_seed("seed", seed)
    share_or_count = check_budget(budget)
    order = STRATEGIES[strategy].order
    # Rounded before it is cut off, because 0.29 of 100 should be 29 and comes out as 28.999999999999996.
    share = round(share_or_count * len(dataset), 9)
    count = share_or_count if isinstance(share_or_count, int) else math.floor(share)
    if count > len(dataset):
        logger.warning("`budget=%d` is more than the %d pairs there are: all are kept.", count, len(dataset))
    if count == 0:
        raise ValueError(f"`budget={budget}` of {len(dataset)} pairs keeps none. Raise it.")
    if count >= len(dataset):
        return dataset
    if order == "random":
        kept = np.random.default_rng(seed).choice(len(dataset), count, replace=False)
    else:
        if "similarity" not in dataset.column_names:
            raise ValueError(
                f"`select_budget` ranks pairs by the column `similarity`. Found: {dataset.column_names}. Run "
                "`dataset.map(real_select, batched=True)` first."
            )
        column = dataset.with_format("arrow")["similarity"][:]
        if not (
            pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type)
        ):
            raise ValueError(
                f"Column `similarity`: expected numbers, found {column.type}. Make it with `real_select`."
            )
        similarity = column.to_numpy().astype(np.float64)
        if not np.isfinite(similarity).any():
            raise ValueError(
                "Column `similarity` holds no number to rank by: the pairs were picked at random and nothing was "
                "embedded. Run `embed_responses` first, or use `strategy='random'`."
            )
        kept = np.argsort(-similarity if order == "most similar" else similarity, kind="stable")[:count]
    return dataset.select(np.sort(kept))

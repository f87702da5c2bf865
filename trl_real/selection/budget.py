"""Select the pairs that fit into a budget: `select_budget`."""

import hashlib
import logging
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset

from ..config import check_budget
from ..core.checks import check_count, check_number, check_seed
from ..core.columns import as_text_array, column_blocks
from ..core.messages import as_json, response_text
from ..core.transform import Transform
from ..strategies import STRATEGIES, check_strategy
from .similarity import pair_vectors


logger = logging.getLogger(__name__)

# What a person reads. A token is a word, a mark, or a character of a script that writes words without spaces.
MARKS = r"\p{P}\p{S}\p{Han}\p{Hiragana}\p{Katakana}"
READING_COSTS = {
    "characters": pc.utf8_length,
    "tokens": lambda texts: pc.count_substring_regex(texts, rf"[{MARKS}]|[^{MARKS}\p{{Z}}\s]+"),
}
# Pairs are compared with the kept ones in blocks, so that only the vectors of these and of a block are in memory.
BLOCK = 1000


def select_budget(
    dataset: Any,
    budget: float | None,
    strategy: str = "easy",
    seed: int = 0,
    cost: str | None = None,
    *,
    pairs_per_prompt: int | None = None,
    min_distance: float | None = None,
    threshold: float | None = None,
) -> Any:
    r"""
    Keep the pairs that are most worth a label. The kept rows stay in their original order.

    For pairs picked by [`real_select`], this applies a labeling budget. For given pairs, this is the selection of the paper for
    HH-RLHF (arXiv 2409.17169), which keeps the half of the pairs with the lowest similarity.

    The strategy ranks the pairs; among equal pairs, the earlier one comes first. A pair that would exceed a limit is skipped.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Pairs with a column `similarity`, from [`real_select`]. A stream is read once, so it needs a `threshold` and accepts
            only a count as `budget`.
        budget (`int` or `float`, *optional*):
            How many pairs to keep, as in scikit-learn's `train_size`: a float between 0 and 1 is a share, rounded
            down, an int is a count. A count above the number of pairs keeps all, with a warning. If `None`, only the other
            limits apply.
        strategy (`str`, *optional*, defaults to `"easy"`):
            Which pairs come first: for `"hard"` the most similar, for `"max_min"` those with the widest score gap, for
            `"random"` a random sample, and for all others the least similar. Pairs with a similarity of NaN or null come last.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the random sample.
        cost (`str`, *optional*):
            The unit of `budget`: `"characters"` or `"tokens"` (words and marks) to read in the prompt and both responses, or
            the name of a numeric column with the cost of each pair. A share is then a share of the total cost. If `None`, each
            pair costs 1.
        pairs_per_prompt (`int`, *optional*):
            The maximum number of pairs to keep per prompt.
        min_distance (`float`, *optional*):
            Keep a pair only if its cosine distance to every pair that is already kept is larger than this, as in DEITA (arXiv
            2312.15685). The vector of a pair is the mean of its responses. Needs the column `embeddings` from
            [`embed_responses`], either of the two sides or of all `responses`, if that column is there, too.
        threshold (`float`, *optional*):
            Keep only pairs with at most this similarity; for `"hard"`, with at least this similarity.

    Returns:
        The same type as `dataset`, with the kept rows.

    Raises:
        `TypeError`: If `dataset` is neither.
        `ValueError`: If a column is missing or has wrong values, an option is not valid, or nothing is kept.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from trl_real import select_budget

    >>> pairs = Dataset.from_dict({"chosen": ["a", "b", "c"], "similarity": [0.9, 0.1, 0.5]})
    >>> select_budget(pairs, 2)["chosen"][:]
    ['b', 'c']
    ```
    """
    if not isinstance(dataset, Dataset | IterableDataset):
        raise TypeError(
            f"`select_budget` needs a `datasets.Dataset` or `IterableDataset`, got {type(dataset).__name__}. Call it on each "
            "split of a `DatasetDict`."
        )
    budget = _check_limits(budget, strategy, seed, cost, pairs_per_prompt, min_distance, threshold)
    if isinstance(dataset, IterableDataset):
        others = {"cost": cost, "pairs_per_prompt": pairs_per_prompt, "min_distance": min_distance}
        return _filter_stream(
            dataset, budget, strategy, threshold, [name for name, v in others.items() if v is not None]
        )

    has_pair = _has_pair(dataset)
    if not has_pair.any():
        raise ValueError("`select_budget` got no pairs: the dataset is empty, or none of its rows has a pair.")
    order = _rank(dataset, strategy, seed, threshold)
    order = order[has_pair[order]]
    if not len(order):
        raise ValueError(f"No pair is within `threshold={threshold}`. Change it.")
    costs = np.where(has_pair, 1.0 if cost is None else _costs(dataset, cost), 0.0)
    limit = _limit(budget, costs, has_pair, order, cost)
    if cost is None and pairs_per_prompt is min_distance is None:
        kept = order[: int(min(limit, len(order)))]
    else:
        kept = np.array(list(_spend(dataset, order, costs, limit, pairs_per_prompt, min_distance)), dtype=np.int64)
    return dataset if len(kept) == len(dataset) else dataset.select(np.sort(kept))


def _check_limits(
    budget: float | None,
    strategy: str,
    seed: int,
    cost: str | None,
    pairs_per_prompt: int | None,
    min_distance: float | None,
    threshold: float | None,
) -> float | None:
    """The budget, with whole numbers as `int`; raises where an option is not valid, or nothing is limited."""
    check_strategy(strategy)
    check_seed("seed", seed)
    if pairs_per_prompt is not None:
        check_count("pairs_per_prompt", pairs_per_prompt)
    check_number("min_distance", min_distance, 0, 2)
    check_number("threshold", threshold, -1, 1)
    if threshold is not None and STRATEGIES[strategy].order not in ("least similar", "most similar"):
        raise ValueError(f"`threshold` is one of similarity, by which {strategy!r} does not rank. Leave it out.")
    if cost is not None and budget is None:
        raise ValueError(f"`cost={cost!r}` is the unit of a `budget`, and there is none. Set both.")
    if budget is None and pairs_per_prompt is min_distance is threshold is None:
        raise ValueError(
            "`budget=None` keeps all pairs. Give a budget, or `pairs_per_prompt`, `min_distance` or `threshold`."
        )
    return None if budget is None else check_budget(budget)


def _has_pair(dataset: Dataset) -> np.ndarray:
    """Which rows have a pair, `(n,)`: those that are kept without one have no place in a budget."""
    if "skip_reason" not in dataset.column_names:
        return np.ones(len(dataset), dtype=bool)
    none = np.zeros(0, dtype=bool)
    return np.concatenate([none, *(block.is_null().to_numpy() for block in column_blocks(dataset, "skip_reason"))])


def _limit(
    budget: float | None, costs: np.ndarray, has_pair: np.ndarray, order: np.ndarray, cost: str | None
) -> float:
    """What may be spent, in the unit of the costs."""
    total = costs.sum()
    # Sums of fractions are off in their last digits: 0.29 of 100 should be 29 and comes out as 28.999999999999996.
    limit = np.inf if budget is None else (budget if isinstance(budget, int) else budget * total) + 1e-9 * total
    if limit < costs[order].min():
        why = (
            f"of {np.count_nonzero(has_pair)} pairs keeps none"
            if cost is None
            else f"keeps none: the cheapest pair costs {costs[order].min():g} {cost}"
        )
        raise ValueError(f"`budget={budget}` {why}. Raise it.")
    if isinstance(budget, int) and budget > total:
        what = f"{np.count_nonzero(has_pair)} pairs there are" if cost is None else f"{total:g} {cost} of all pairs"
        logger.warning("`budget=%s` is more than the %s: it leaves none out.", budget, what)
    return limit


def _rank(dataset: Dataset, strategy: str, seed: int, threshold: float | None) -> np.ndarray:
    """The rows within the threshold, the first to be kept first."""
    order = STRATEGIES[strategy].order
    if order == "random":
        return np.random.default_rng(seed).permutation(len(dataset))
    if order == "widest gap":
        column = "score_chosen` and `score_rejected"
        with np.errstate(invalid="ignore", over="ignore"):  # infinity minus infinity is no gap to rank by
            rank = _numbers(dataset, "score_rejected") - _numbers(dataset, "score_chosen")
    else:
        column = "similarity"
        rank = _numbers(dataset, column) * (-1 if order == "most similar" else 1)
    if len(rank) and np.isnan(rank).all():
        raise ValueError(
            f"Column `{column}` holds no number to rank by. Pairs that were picked without embeddings have no similarity: run "
            "`embed_responses` first, or use `strategy='random'`."
        )
    rows = np.argsort(rank, kind="stable")
    return rows if threshold is None else rows[_is_within(_numbers(dataset, column), threshold, order)[rows]]


def _check_column(column: str, columns: Collection[str]) -> None:
    if column not in columns:
        source = "`scores`" if column.startswith("score") else "the responses"
        raise ValueError(
            f"`select_budget` needs the column `{column}`, which `real_select` makes from {source}. Found: {list(columns)}."
        )


def _numbers(dataset: Dataset, column: str) -> np.ndarray:
    """A column of numbers, NaN for null."""
    _check_column(column, dataset.column_names)
    found = dataset.features.arrow_schema.field(column).type
    if not (pa.types.is_floating(found) or pa.types.is_integer(found) or pa.types.is_null(found)):
        raise ValueError(f"Column `{column}`: expected numbers, found {found}.")
    return np.concatenate([block.to_numpy().astype(np.float64) for block in column_blocks(dataset, column)])


def _is_within(similarity: Any, threshold: float, order: str) -> np.ndarray:
    values = np.asarray(similarity, dtype=np.float64)  # null becomes NaN, which is not within
    return values >= threshold if order == "most similar" else values <= threshold


def _filter_stream(
    stream: IterableDataset, budget: float | None, strategy: str, threshold: float | None, others: list[str]
) -> IterableDataset:
    if threshold is None or others or isinstance(budget, float):
        raise ValueError(
            "A stream is read once and cannot be ranked: give a `threshold` of similarity and, if any, a count as `budget`, "
            f"without `cost`, `pairs_per_prompt` and `min_distance`. Got threshold={threshold}, budget={budget}"
            + "".join(f" and `{name}`" for name in others)
            + ". Or load the data without `streaming=True`."
        )
    if stream.column_names is not None:
        _check_column("similarity", stream.column_names)
    kept = stream.map(
        _keep_within,
        batched=True,
        features=stream.features,
        fn_kwargs={"threshold": threshold, "order": STRATEGIES[strategy].order},
    )
    return kept if budget is None else kept.take(int(budget))


@Transform
def _keep_within(batch: Any, threshold: float, order: str) -> Any:
    # Not `filter`, which takes no stream of tables.
    _check_column("similarity", batch)
    kept = np.flatnonzero(_is_within(batch["similarity"], threshold, order)).tolist()
    for name in list(batch):
        values = batch[name]
        batch[name] = [values[r] for r in kept]
    return batch


def check_order(strategy: str, columns: Collection[str]) -> None:
    """Raise unless the pairs that are made of `columns` can be spent in the order of `strategy`."""
    if STRATEGIES[strategy].order == "widest gap" and not (
        "scores" in columns or {"score_chosen", "score_rejected"} <= set(columns)
    ):
        others = [name for name, row in STRATEGIES.items() if row.order != "widest gap"]
        raise ValueError(
            f"A budget that is spent by {strategy!r} needs scores: a column `scores`, or, beside given pairs, `score_chosen` and "
            f"`score_rejected`. Found: {sorted(columns)}. Add them, or spend it by one of {others}."
        )


def check_cost(name: str, cost: object, columns: list[str]) -> None:
    """Raise unless `cost`, the value of the option `name`, is known or a column."""
    if not isinstance(cost, str) or cost not in {*READING_COSTS, *columns}:
        raise ValueError(
            f"`{name}` must be one of {list(READING_COSTS)} or a column of numbers, got {cost!r}. Found the columns {columns}."
        )


def _costs(dataset: Dataset, cost: str) -> np.ndarray:
    """What each pair costs, `(n_pairs,)`."""
    if cost not in READING_COSTS:
        check_cost("cost", cost, dataset.column_names)
        costs = _numbers(dataset, cost)
        if not (costs >= 0).all():
            found = "null or NaN" if np.isnan(costs).any() else f"{costs.min():g}"
            raise ValueError(f"Column `{cost}`: expected numbers of at least 0, found {found}.")
        return costs
    sides = [name for name in ("chosen", "rejected", "response_a", "response_b") if name in dataset.column_names]
    if len(sides) != 2:
        raise ValueError(f"`cost={cost!r}` needs pairs with two responses. Found: {dataset.column_names}.")
    costs = np.zeros(len(dataset))
    for column in {"prompt", *sides} & {*dataset.column_names}:
        read = 0
        for batch in dataset.with_format(None).select_columns([column]).iter(BLOCK):
            texts = as_text_array("" if value is None else response_text(value) for value in batch[column])
            costs[read : read + len(texts)] += READING_COSTS[cost](texts).to_numpy()
            read += len(texts)
    return costs


def _spend(
    dataset: Dataset,
    order: np.ndarray,
    costs: np.ndarray,
    limit: float,
    pairs_per_prompt: int | None,
    min_distance: float | None,
) -> Iterator[int]:
    """The rows that are kept: in the order of `order`, each that fits what is left of all limits."""
    prompts = prompt_numbers(dataset) if pairs_per_prompt is not None else np.zeros(len(dataset), dtype=np.int64)
    pairs_left = np.full(len(dataset), np.inf if pairs_per_prompt is None else pairs_per_prompt)
    spent, cheapest = 0.0, costs[order].min(initial=np.inf)
    kept_vectors: list[np.ndarray] = []
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        too_close = np.zeros(len(block), dtype=bool)
        if min_distance is not None:
            middles = pair_vectors(dataset.select(block)).mean(1)  # (n_block, dim)
            middles /= np.maximum(np.linalg.norm(middles, axis=1, keepdims=True), 1e-12)
            near = _distance(middles, middles) <= min_distance
            for others in kept_vectors:
                too_close |= (_distance(middles, others) <= min_distance).any(1)
        taken = []
        for b, row in enumerate(block.tolist()):
            if spent + cheapest > limit:
                return
            if too_close[b] or pairs_left[prompts[row]] < 1 or spent + costs[row] > limit:
                continue
            if min_distance is not None:
                too_close |= near[b]
            pairs_left[prompts[row]] -= 1
            spent += costs[row]
            taken.append(b)
            yield row
        if min_distance is not None and taken:
            kept_vectors.append(middles[taken])


def _distance(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Cosine distances of unit vectors; rounded, so that equal ones are no distance apart."""
    return np.round(1 - vectors @ others.T, 9)


def prompt_numbers(dataset: Dataset) -> np.ndarray:
    """The same number for rows with the same prompt, `(n_pairs,)`."""
    if "prompt" not in dataset.column_names:
        raise ValueError(f"`pairs_per_prompt` needs the column `prompt`. Found: {dataset.column_names}.")
    numbers: dict[bytes, int] = {}
    keys = (
        hashlib.blake2b(as_json(prompt).encode(), digest_size=16).digest()
        for batch in dataset.with_format(None).select_columns(["prompt"]).iter(BLOCK)
        for prompt in batch["prompt"]
    )
    return np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), dtype=np.int64, count=len(dataset))

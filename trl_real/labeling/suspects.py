"""Labels that are worth a second look: `suspect_labels`."""

from typing import Any

import numpy as np
from datasets import Dataset, Value

from ..candidates.conversion import ConvertedPairs, convert
from ..config import SelectionConfig
from ..embedding.embed import embed
from ..selection.budget import prompt_numbers
from ..selection.similarity import pair_differences
from .preference_model import JudgedPairs, chance, fit


def suspect_labels(
    dataset: Dataset,
    *,
    embedder: Any = SelectionConfig.embedder,
    embedder_max_length: int | None = SelectionConfig.embedder_max_length,
    embedder_batch_size: int = SelectionConfig.embedder_batch_size,
    embedder_dtype: str = SelectionConfig.embedder_dtype,
) -> Dataset:
    r"""
    Rank labeled pairs by how likely their label is wrong, most suspicious first.

    A linear Bradley-Terry model of the embeddings learns from all labels. For each pair, the labels of its own prompt are removed from
    the model, which then predicts which side is better. A label is suspicious if this prediction disagrees with it. Have the first
    pairs labeled again.

    Args:
        dataset ([`~datasets.Dataset`]):
            Labeled pairs in any layout with a chosen and a rejected side that [`to_candidates`] recognizes. If several annotators voted,
            the columns `label_agreement` and `n_labels` from [`apply_labels`] are used. `embeddings` from [`embed_responses`] are used
            if present.
        embedder, embedder_max_length, embedder_batch_size, embedder_dtype (*optional*):
            As in [`embed_responses`].

    Returns:
        [`~datasets.Dataset`]: The rows of `dataset`, most suspicious first, with a column `suspicion`: the estimated probability that
        the label is wrong, from 0 to 1. It is 0.5 if the model knows nothing about the pair.

    Raises:
        `TypeError`: If `dataset` is not a [`~datasets.Dataset`].
        `ValueError`: If it does not have labeled pairs, or a side is missing.

    Example:

    ```python
    >>> from trl_real import SelectionConfig, load_sample, select_preferences, suspect_labels

    >>> pairs, _ = select_preferences(load_sample(), SelectionConfig(pairs_per_prompt=3))
    >>> ranked = suspect_labels(pairs)
    >>> ranked["suspicion"][0] >= ranked["suspicion"][1]
    True
    ```
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"`suspect_labels` needs a `datasets.Dataset`, got {type(dataset).__name__}.")
    config = SelectionConfig(
        embedder=embedder,
        embedder_max_length=embedder_max_length,
        embedder_batch_size=embedder_batch_size,
        embedder_dtype=embedder_dtype,
    )
    converted = convert(dataset, on_skip="error")
    if not isinstance(converted, ConvertedPairs):
        raise ValueError(
            "`suspect_labels` needs labeled pairs, with the columns `chosen` and `rejected`. Found: "
            f"{dataset.column_names}. Label pairs with `apply_labels`, or select them with `select_preferences`."
        )
    rows = converted.dataset
    if "embeddings" not in rows.column_names:
        rows, _ = embed(rows.select_columns(["prompt", "chosen", "rejected"]), config.embedder_options)
    share, count = (
        np.array(dataset[name], dtype=np.float64) if name in dataset.column_names else np.ones(len(dataset))
        for name in ("label_agreement", "n_labels")
    )
    pairs = JudgedPairs(pair_differences(rows).astype(np.float64), share, count, prompt_numbers(rows))
    right = chance(*pairs.unseen(fit(pairs.difference, share, count)))
    order = np.argsort(right, kind="stable")
    ranked = dataset.select(order)
    if "suspicion" in ranked.column_names:
        ranked = ranked.remove_columns("suspicion")
    return ranked.add_column("suspicion", 1 - right[order], feature=Value("float64"))

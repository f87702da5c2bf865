"""The whole flow in one call: `select_preferences`."""

from collections import Counter

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from datasets.fingerprint import generate_random_fingerprint
from datasets.formatting import PythonFormatter
from datasets.formatting.formatting import LazyBatch

from .budget import select_budget
from .candidates import read_candidates
from .config import SelectionConfig
from .conversion import Converted, convert
from .embedding import embed_responses, embedder_name
from .policies import POLICIES, SKIP_REASONS, eligible_responses
from .report import Distribution, SelectionReport
from .selection import check_scores, pair_features, real_select
from .similarity import group_prompts, read_vectors
from .strategies import STRATEGIES


# Few enough prompts that the progress bar moves, enough that the embedder can sort their responses by length.
EMBED_BATCH = 128
EMBED_OPTIONS = ("embedder", "embedder_max_length", "embedder_batch_size", "embedder_dtype")
SELECT_OPTIONS = ("strategy", "strategy_kwargs", "pairs_per_prompt", "min_score_gap", "selection_seed")
USED_UP = ("responses", "scores", "embeddings", "responses_cut")


def select_preferences(dataset: Dataset, config: SelectionConfig | None = None) -> tuple[Dataset, SelectionReport]:
    r"""
    Read the layout, embed the responses, pick the pair(s) of each prompt and spend the budget: [`to_candidates`],
    [`embed_responses`], [`real_select`] and [`select_budget`] in this order, with exact counts of all that was left out.

    Args:
        dataset ([`~datasets.Dataset`]):
            Candidates or given pairs, in any layout that [`to_candidates`] knows. Where it leaves a doubt, call that first.
        config ([`SelectionConfig`], *optional*):
            The options. If `None`, the defaults.

    Returns:
        `tuple[Dataset, SelectionReport]`: The pairs, with the columns of [`real_select`] and without `responses`,
        `scores` and `embeddings`; and what was done.

    Raises:
        `TypeError`: If `dataset` is no [`~datasets.Dataset`], or holds something else than text or messages.
        `ValueError`: If the columns are not known, the dataset is empty, no prompt has a valid pair, or the budget keeps
            none.
        `OSError`: If the embedder cannot be found.

    Example:

    ```python
    >>> from trl_real import SelectionConfig, load_sample, select_preferences

    >>> pairs, report = select_preferences(load_sample(), SelectionConfig(strategy="easy", budget=0.5))
    >>> pairs.column_names
    ['topic', 'prompt', 'chosen', 'rejected', 'score_chosen', 'score_rejected', 'similarity']
    ```
    """
    config = SelectionConfig() if config is None else config
    if not isinstance(config, SelectionConfig):
        raise TypeError(f"`config` must be a `SelectionConfig`, got {type(config).__name__}.")
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"`select_preferences` needs a `datasets.Dataset`, got {type(dataset).__name__}. For a `DatasetDict` call it "
            "on each split; an `IterableDataset` goes through `dataset.map(real_select, batched=True)`."
        )
    if len(dataset) == 0:
        raise ValueError("The dataset is empty: there is nothing to select from.")
    return select_converted(convert(dataset, on_skip="error" if config.on_skip == "error" else "keep"), config)


def select_converted(converted: Converted, config: SelectionConfig) -> tuple[Dataset, SelectionReport]:
    """[`select_preferences`] from where the layout has been read."""
    dataset, given_pairs = converted.dataset, converted.given_pairs
    labelled = given_pairs or "scores" in dataset.column_names
    check_scores(config.strategy, dataset.column_names)
    if given_pairs and "responses" in dataset.column_names:  # what the pairs were picked from
        dataset = dataset.remove_columns([name for name in USED_UP if name in dataset.column_names])

    embedder = None
    if "embeddings" in dataset.column_names:
        embedder = "column `embeddings`"
    elif STRATEGIES[config.strategy].needs("similarity"):
        embedder = embedder_name(config.embedder)
        # An embedder that is an object has no name to cache its work under, and hashing it would pickle its weights.
        uncached = None if isinstance(config.embedder, str) else generate_random_fingerprint()
        dataset = dataset.map(
            embed_responses,
            batched=True,
            batch_size=EMBED_BATCH,
            fn_kwargs={name: getattr(config, name) for name in EMBED_OPTIONS},
            desc="Embedding responses",
            new_fingerprint=uncached,
        )
    cut = None
    if {"embeddings", "responses_cut"} <= set(dataset.column_names):
        cut = pc.sum(dataset.with_format("arrow")["responses_cut"][:]).as_py()

    options = {name: getattr(config, name) for name in SELECT_OPTIONS}
    picked = dataset.map(
        real_select,
        batched=True,
        # Kept, so that they can be counted.
        fn_kwargs={**options, "on_skip": "error" if config.on_skip == "error" else "keep"},
        features=pair_features(dataset.features, given_pairs, labelled),
        desc="Selecting pairs",
    )
    reasons = picked.with_format("arrow")["skip_reason"][:]
    skipped = Counter(reason for reason in reasons.to_pylist() if reason is not None)
    if skipped.total() == len(picked):
        why = "; ".join(f"{n} because {SKIP_REASONS[reason]} ({reason})" for reason, n in skipped.most_common())
        raise ValueError(f"None of the {len(picked)} rows has a valid pair: {why}.")
    picked = picked.remove_columns([name for name in USED_UP if name in picked.column_names])
    pairs = picked
    if config.on_skip != "keep":
        pairs = pairs.select(np.flatnonzero(pc.is_null(reasons).to_numpy())).remove_columns("skip_reason")
    n_picked = len(pairs)
    if config.budget is not None:
        pairs = select_budget(pairs, config.budget, config.strategy, config.selection_seed)

    similarities = pairs.with_format("arrow")["similarity"][:].drop_null().to_numpy()
    n_responses, eligible, policies = _survey(dataset, config.min_score_gap)
    policies.update(converted.policies)
    n_responses += converted.policies["empty_responses"] + converted.policies["equal_responses"]
    report = SelectionReport(
        strategy=config.strategy,
        embedder=embedder,
        budget=config.budget,
        layout=converted.layout,
        given_pairs=given_pairs,
        labelled=labelled,
        rows=converted.rows,
        skipped=dict(skipped.most_common()),
        dropped={"over_budget": n_picked - len(pairs)} if n_picked > len(pairs) else {},
        policies={name: policies[name] for name in POLICIES if policies[name]},
        pairs=len(similarities),
        responses=n_responses,
        responses_cut=cut,
        eligible=Distribution.of(eligible),
        picked=Distribution.of(similarities),
    )
    return pairs, report


def _survey(dataset: Dataset, min_score_gap: float) -> tuple[int, np.ndarray, Counter[str]]:
    """
    Count the responses and what the policies do with them, and give the similarities of all pairs that could be
    labelled, NaN without embeddings.
    """
    columns = [name for name in ("prompt", "chosen", "rejected", *USED_UP) if name in dataset.column_names]
    n_responses, similarities, policies = 0, [np.zeros(0, np.float32)], Counter[str]()
    for table in dataset.select_columns(columns).with_format("arrow").iter(batch_size=1000):
        batch = LazyBatch(table, PythonFormatter(features=dataset.features))
        candidates = read_candidates(batch, "select_preferences")
        eligible = eligible_responses(candidates, min_score_gap)
        vectors = read_vectors(batch, candidates, eligible) if "embeddings" in batch else None
        n_responses += len(candidates.texts)
        policies.update(eligible.policies)
        for group in group_prompts(eligible, vectors, min_score_gap):
            first, second = np.triu_indices(group.similarity.shape[1], 1)
            similarities.append(group.similarity[:, first, second][group.may_pair].astype(np.float32))
            policies["tied_pairs"] += int((~group.may_pair).sum())
    return n_responses, np.concatenate(similarities), policies

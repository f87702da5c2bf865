"""The whole flow in one call: `select_preferences`."""

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features, IterableDataset

from ..candidates.conversion import Converted, convert
from ..candidates.eligibility import POLICIES, SKIP_REASONS
from ..config import SelectionConfig
from ..core.columns import column_blocks, column_names
from ..embedding.embed import BATCH, EMBED_OPTIONS, embed
from ..embedding.embedder import embedder_limit, embedder_name, embedder_revision
from ..strategies import STRATEGIES
from .budget import check_cost, check_order, select_budget
from .measures import survey_candidates, survey_pairs
from .report import LONGER_WINS, SelectionReport
from .select import check_scores, pair_features, real_select
from .value_counts import Tally


logger = logging.getLogger(__name__)

SELECT_OPTIONS = ("strategy", "strategy_kwargs", "pairs_per_prompt", "min_score_gap", "selection_seed")
# Fewer pairs say nothing about length.
MIN_PAIRS = 20
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


def needs_embeddings(config: SelectionConfig, given_pairs: bool) -> bool:
    """Whether pairs are picked, or the budget is spent, by what embeddings say."""
    config = _in_effect(config, given_pairs)
    strategies = (config.strategy, config.budget_strategy or config.strategy)
    return config.budget_min_distance is not None or any(STRATEGIES[s].needs("similarity") for s in strategies)


def _in_effect(config: SelectionConfig, given_pairs: bool) -> SelectionConfig:
    """The options with the strategy that does something: of given pairs none is picked, only the budget is spent."""
    if not (given_pairs and config.budget_strategy):
        return config
    return dataclasses.replace(config, strategy=config.budget_strategy, strategy_kwargs=None)


def select_converted(
    converted: Converted,
    config: SelectionConfig,
    embed_with: Callable[[Dataset, SelectionConfig], tuple[Dataset, int | None]] = embed,
) -> tuple[Dataset, SelectionReport]:
    """[`select_preferences`] from where the layout has been read, with another way to embed if need be."""
    dataset, given_pairs = converted.dataset, converted.given_pairs
    config = _in_effect(config, given_pairs)
    labelled = given_pairs or "scores" in dataset.column_names
    budgeted = (config.budget, config.budget_min_distance) != (None, None)
    spent_by = config.budget_strategy or config.strategy
    check_scores(config.strategy, dataset.column_names)
    if budgeted:
        check_order(spent_by, dataset.column_names)
    if config.budget_cost is not None:
        check_cost("budget_cost", config.budget_cost, dataset.column_names)
    seconds, start = {"reading": converted.seconds}, time.perf_counter()
    if given_pairs and "responses" in dataset.column_names:  # what the pairs were picked from
        dataset = dataset.remove_columns([name for name in USED_UP if name in dataset.column_names])

    embedder, revision, limit, responses_cut, tokens_cut = None, None, None, None, None
    if "embeddings" in dataset.column_names:
        embedder = "column `embeddings`"
    elif needs_embeddings(config, given_pairs):
        embedder = embedder_name(config.embedder)
        dataset, tokens_cut = embed_with(dataset, config)
        revision = embedder_revision(config.embedder)
        limit = embedder_limit(config.embedder, config.embedder_max_length)
    if {"embeddings", "responses_cut"} <= set(dataset.column_names):
        cut = [pc.sum(block).as_py() for block in column_blocks(dataset, "responses_cut")]
        responses_cut = None if None in cut else sum(cut)
    seconds["embedding"], start = time.perf_counter() - start, time.perf_counter()

    options = {name: getattr(config, name) for name in SELECT_OPTIONS}
    features = pair_features(dataset.features, given_pairs, labelled)
    used_up = [name for name in USED_UP if name in features]
    if config.budget_min_distance is not None or config.budget_cost in used_up:
        used_up = []
    picked = dataset.map(
        real_select,
        batched=True,
        # Kept, so that they can be counted.
        fn_kwargs={**options, "on_skip": "error" if config.on_skip == "error" else "keep"},
        features=Features({name: feature for name, feature in features.items() if name not in used_up}),
        remove_columns=used_up,
        desc="Selecting pairs",
    )
    reasons = picked.with_format("arrow")["skip_reason"][:]
    counts = pc.value_counts(reasons.drop_null()).to_pylist()
    skipped = Counter({entry["values"]: entry["counts"] for entry in counts})
    if skipped.total() == len(picked):
        why = "; ".join(f"{n} because {SKIP_REASONS[reason]} ({reason})" for reason, n in skipped.most_common())
        raise ValueError(f"None of the {len(picked)} rows has a valid pair: {why}.")
    all_pairs = pairs = picked.select(np.flatnonzero(pc.is_null(reasons).to_numpy(zero_copy_only=False)))
    if budgeted:
        pairs = select_budget(
            pairs,
            config.budget,
            spent_by,
            config.selection_seed,
            config.budget_cost,
            min_distance=config.budget_min_distance,
        )
    seconds["selecting"], start = time.perf_counter() - start, time.perf_counter()

    if given_pairs:
        eligible, n_responses, policies = survey_pairs(all_pairs), 2 * len(dataset), Counter[str]()
    else:
        eligible, n_responses, policies = survey_candidates(dataset, config.min_score_gap)
    policies.update(converted.policies)
    report = SelectionReport(
        strategy=config.strategy,
        embedder=embedder,
        embedder_revision=revision,
        embedder_max_length=limit,
        budget=config.budget,
        budget_strategy=spent_by if budgeted else None,
        budget_cost=config.budget_cost,
        layout=converted.layout,
        given_pairs=given_pairs,
        labelled=labelled,
        rows=converted.rows,
        skipped=dict(skipped.most_common()),
        dropped={"over_budget": len(all_pairs) - len(pairs)} if len(all_pairs) > len(pairs) else {},
        policies={name: policies[name] for name in POLICIES if policies[name]},
        pairs=len(pairs),
        responses=n_responses + converted.policies["empty_responses"] + converted.policies["equal_responses"],
        responses_cut=responses_cut,
        tokens_cut=tokens_cut,
        seconds=seconds,
    )
    selected = survey_pairs(pairs)
    report.compare(eligible, selected)
    seconds["reporting"] = time.perf_counter() - start
    report.seconds = {stage: round(spent, 2) for stage, spent in seconds.items()}
    _warn_of_length(report, selected.get("length_difference", Tally()))

    pairs = picked if config.on_skip == "keep" else pairs.remove_columns("skip_reason")
    return pairs.remove_columns([name for name in USED_UP if name in pairs.column_names]), report


def select_stream(converted: Converted, config: SelectionConfig) -> IterableDataset:
    """The pairs of a stream, which is read once: nothing is counted, and nothing can be ranked for a budget."""
    if (config.budget, config.budget_min_distance) != (None, None):
        raise ValueError(
            "A stream is read once, and its pairs cannot be ranked for a `budget`. Load the data without `streaming=True`, or "
            "select with `select_budget(stream, None, threshold=...)`."
        )
    stream, columns = converted.dataset, column_names(converted.dataset) or []
    labelled = converted.given_pairs or "scores" in columns
    check_scores(config.strategy, columns)
    used = [name for name in USED_UP if name in columns]
    features = None
    if stream.features is not None:
        features = pair_features(stream.features, converted.given_pairs, labelled)
        features = Features({name: features[name] for name in features if name not in (*used, "skip_reason")})
    options = {name: getattr(config, name) for name in (*EMBED_OPTIONS, *SELECT_OPTIONS, "on_skip")}
    return stream.map(
        real_select, batched=True, batch_size=BATCH, fn_kwargs=options, remove_columns=used, features=features
    )


def _warn_of_length(report: SelectionReport, differences: Tally) -> None:
    values, counts = differences.distinct()
    if counts[values != 0].sum() >= MIN_PAIRS and report.chosen_longer["picked"] > LONGER_WINS:
        logger.warning(
            "Of the selected pairs that differ in length the longer response is chosen in %.0f%% (%.0f%% of all pairs that "
            "could be labelled): a model may learn to write more rather than better. Look at what the scores reward, or "
            "compare lengths before and after training.",
            100 * report.chosen_longer["picked"],
            100 * report.chosen_longer["eligible"],
        )

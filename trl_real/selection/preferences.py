"""Run all stages of the selection in one call: `select_preferences`."""

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features, IterableDataset, List, Value

from ..candidates.batch import COLUMNS, read_rows
from ..candidates.conversion import EMBEDDED, Converted, ConvertedPairs, convert
from ..candidates.eligibility import SKIP_REASONS, check_gap
from ..config import EmbedderOptions, SelectionConfig
from ..core.columns import arrow_batches
from ..core.transform import map_rows
from ..embedding.embed import BATCH, embed
from ..embedding.embedder import embedder_limit
from ..embedding.identity import Identity, embedder_name
from ..strategies import STRATEGIES
from .budget import check_cost, check_order, select_budget
from .measures import Measures, measure_pairs
from .pick import batch_size, check_scores, compare, pick
from .report import SelectionReport
from .report_parts import Embedded, report_on, skipped_reasons, total
from .select import pair_features, select_batch
from .warn import warn_of_length, warn_of_reversed


# Embeds a dataset, and returns the identity of the embedder with it.
Embed = Callable[[Dataset, EmbedderOptions], tuple[Dataset, Identity]]
SELECT_OPTIONS = (
    "strategy",
    "strategy_kwargs",
    "pairs_per_prompt",
    "max_pairs_per_response",
    "min_score_gap",
    "selection_seed",
)
CUT = ("responses_cut", "tokens_cut")
USED_UP = ("responses", "scores", *EMBEDDED)


def select_preferences(dataset: Dataset, config: SelectionConfig | None = None) -> tuple[Dataset, SelectionReport]:
    r"""
    Select preference pairs in one call: read the layout, embed the responses, pick the pair(s) of each prompt and apply the
    budget.

    Runs [`to_candidates`], [`embed_responses`], [`real_select`] and [`select_budget`] in this order, and counts everything
    that was left out.

    Args:
        dataset ([`~datasets.Dataset`]):
            Candidates or given pairs, in any layout that [`to_candidates`] recognizes. If the layout is ambiguous, call
            [`to_candidates`] first.
        config ([`SelectionConfig`], *optional*):
            The options. If `None`, the defaults.

    Returns:
        `tuple[Dataset, SelectionReport]`: The pairs, with the columns of [`real_select`] and without `responses`, `scores` and
        `embeddings`, and the report.

    Raises:
        `TypeError`: If `dataset` is not a [`~datasets.Dataset`], or holds anything but text or messages.
        `ValueError`: If the layout is not recognized, the dataset is empty, no prompt has a valid pair, or the budget keeps no
            pair.
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
            f"`select_preferences` needs a `datasets.Dataset`, got {type(dataset).__name__}. Call it on each split of a "
            "`DatasetDict`. For an `IterableDataset`, use `dataset.map(real_select, batched=True)`."
        )
    if len(dataset) == 0:
        raise ValueError("The dataset is empty: there is nothing to select from.")
    return select_converted(convert(dataset, on_skip="error" if config.on_skip == "error" else "keep"), config)


def needs_embeddings(converted: Converted, config: SelectionConfig) -> bool:
    """Whether the options need embeddings that the dataset does not have."""
    config = in_effect(converted, config)
    strategies = (config.strategy, config.budget_strategy or config.strategy)
    asked_for = config.budget_min_distance is not None or any(STRATEGIES[s].needs("similarity") for s in strategies)
    return asked_for and "embeddings" not in usable_columns(converted)


def usable_columns(converted: Converted) -> list[str]:
    """The columns that a selection uses. For given pairs, columns of the responses that they were picked from are ignored."""
    columns = converted.columns
    if isinstance(converted, ConvertedPairs) and "responses" in columns:
        return [name for name in columns if name not in USED_UP]
    return columns


def in_effect(converted: Converted, config: SelectionConfig) -> SelectionConfig:
    """The options with the strategy that takes effect. Given pairs are not picked, so only the budget strategy matters."""
    if not (isinstance(converted, ConvertedPairs) and config.budget_strategy):
        return config
    return dataclasses.replace(config, strategy=config.budget_strategy, strategy_kwargs=None)


def select_converted(
    converted: Converted, config: SelectionConfig, embed_with: Embed = embed
) -> tuple[Dataset, SelectionReport]:
    """The part of [`select_preferences`] after the layout was read. `embed_with` may replace the embedding step."""
    check_selection(converted, config)
    return select_embedded(
        converted, embed_stage(converted, config, needs_embeddings(converted, config), embed_with), config
    )


def select_embedded(
    converted: Converted, embedded: Embedded, config: SelectionConfig
) -> tuple[Dataset, SelectionReport]:
    """The part of [`select_preferences`] after the responses were embedded."""
    config = in_effect(converted, config)
    clock = _Clock(reading=converted.seconds, embedding=embedded.seconds)
    picked, measures = pick_stage(embedded.dataset, config)
    pairs = with_pairs(picked)
    selected = _spend(pairs, config)
    clock.stop("selecting")
    picked_measures = measure_pairs(selected)
    report = report_on(
        converted, embedded, config, measures, picked_measures, skipped_reasons(picked), len(pairs), len(selected)
    )
    clock.stop("reporting")
    report.seconds = clock.seconds
    warn_of_reversed(report)
    warn_of_length(report, picked_measures.values["length_difference"])
    selected = picked if config.on_skip == "keep" else selected.remove_columns("skip_reason")
    return selected.remove_columns([name for name in USED_UP if name in selected.column_names]), report


def check_selection(converted: Converted, config: SelectionConfig) -> None:
    """Raise if the options and the columns do not fit together, before anything is embedded."""
    config = in_effect(converted, config)
    check_scores(config.strategy, converted.columns)
    check_gap(config.min_score_gap, converted.columns)
    if config.is_budgeted:
        check_order(config.budget_strategy or config.strategy, converted.columns)
    if config.budget_cost is not None:
        check_cost("budget_cost", config.budget_cost, converted.columns)


def embed_stage(
    converted: Converted, config: SelectionConfig, wanted: bool = True, embed_with: Embed = embed
) -> Embedded:
    """Embed the responses if `wanted`, unless the dataset has embeddings already."""
    start = time.perf_counter()
    embedded = Embedded(converted.dataset.select_columns(usable_columns(converted)))
    if "embeddings" in embedded.dataset.column_names:
        embedded.embedder = "column `embeddings`"
    elif wanted:
        embedded.embedder = embedder_name(config.embedder)
        embedded.dataset, identity = embed_with(embedded.dataset, config.embedder_options)
        embedded.revision = identity.revision
        embedded.limit = embedder_limit(config.embedder, config.embedder_max_length)
    if embedded.embedder is not None:
        embedded.responses_cut, embedded.tokens_cut = (total(embedded.dataset, name) for name in CUT)
    embedded.seconds = time.perf_counter() - start
    return embedded


def pick_stage(dataset: Dataset, config: SelectionConfig, keep_embeddings: bool = False) -> tuple[Dataset, Measures]:
    """Pick and measure in one pass. Returns all rows, with a `skip_reason` if they have no pair, and the measures."""
    features = pair_features(dataset.features)
    # Only the vectors of the two sides of a pair are kept, and only if a later step needs them.
    pair_embeddings = "embeddings" in features and (config.budget_min_distance is not None or keep_embeddings)
    if pair_embeddings:
        features["embeddings"] = List(List(Value("float32")))
    kept = {config.budget_cost, *({"embeddings"} if pair_embeddings else ())}
    used_up = [name for name in USED_UP if name in features and name not in kept]
    features = Features({name: feature for name, feature in features.items() if name not in used_up})
    measures = Measures()
    options = {name: getattr(config, name) for name in SELECT_OPTIONS}
    # Rows without a pair are kept for now, so that they can be counted.
    config = SelectionConfig(**options, on_skip="error" if config.on_skip == "error" else "keep")
    picked = map_rows(
        dataset,
        select_batch,
        features,
        desc="Selecting pairs",
        key=[options, config.on_skip, used_up, pair_embeddings],
        fn_kwargs={"config": config, "measures": measures, "pair_embeddings": pair_embeddings},
        remove_columns=used_up,
        batch_size=batch_size(dataset, config.pairs_per_prompt),
    )
    if measures.rows < len(dataset):  # the picks came from the cache
        measures = measure_rows(dataset, config)
    skipped = skipped_reasons(picked)
    if sum(skipped.values()) == len(picked):
        why = "; ".join(f"{n} because {SKIP_REASONS[reason]} ({reason})" for reason, n in skipped.items())
        raise ValueError(f"None of the {len(picked)} rows has a valid pair: {why}.")
    return picked, measures


def measure_rows(dataset: Dataset, config: SelectionConfig) -> Measures:
    """The measures of all eligible pairs, for picks that came from the cache."""
    measures = Measures()
    columns = [name for name in COLUMNS if name in dataset.column_names]
    for batch in arrow_batches(dataset, columns):
        pick(compare(batch, read_rows(batch, "select_preferences"), config), config, measures)
    return measures


def with_pairs(picked: Dataset) -> Dataset:
    """The rows that have a pair."""
    reasons = picked.with_format("arrow")["skip_reason"][:]
    return picked.select(np.flatnonzero(pc.is_null(reasons).to_numpy(zero_copy_only=False)))


def _spend(pairs: Dataset, config: SelectionConfig) -> Dataset:
    """The pairs within the budget."""
    if not config.is_budgeted:
        return pairs
    return select_budget(
        pairs,
        config.budget,
        config.budget_strategy or config.strategy,
        config.selection_seed,
        config.budget_cost,
        min_distance=config.budget_min_distance,
    )


class _Clock:
    """Measures the time of each stage in seconds."""

    def __init__(self, **seconds: float):
        self.seconds = {stage: round(spent, 2) for stage, spent in seconds.items()}
        self._start = time.perf_counter()

    def stop(self, stage: str) -> None:
        """End a stage and start the next one."""
        now = time.perf_counter()
        self.seconds[stage], self._start = round(now - self._start, 2), now


def select_stream(converted: Converted, config: SelectionConfig) -> IterableDataset:
    """Select pairs from a stream. A stream is read once, so nothing is counted and no budget can be applied."""
    if config.is_budgeted:
        raise ValueError(
            "A stream is read once, and its pairs cannot be ranked for a `budget`. Load the data without `streaming=True`, or "
            "select with `select_budget(stream, None, threshold=...)`."
        )
    stream, columns = converted.dataset, converted.columns
    check_scores(config.strategy, columns)
    check_gap(config.min_score_gap, columns)
    used = [name for name in USED_UP if name in columns]
    features = None
    if stream.features is not None:
        features = pair_features(stream.features)
        features = Features({name: features[name] for name in features if name not in (*used, "skip_reason")})
    fn_kwargs = {"config": config}
    return map_rows(stream, select_batch, features, batch_size=BATCH, fn_kwargs=fn_kwargs, remove_columns=used)

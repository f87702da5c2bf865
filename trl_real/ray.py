"""Run the stages on several machines: actors for Ray Data, with the extra `ray`."""

import dataclasses
import importlib.util
import pickle
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from .candidates.conversion import ConvertedPairs, convert
from .config import SelectionConfig
from .core.transform import Transform
from .embedding.embed import embed_responses
from .selection.measures import Measures, measure_pairs
from .selection.preferences import SELECT_OPTIONS, check_selection, in_effect, needs_embeddings
from .selection.report import SelectionReport
from .selection.report_parts import Embedded, report_on, skipped_reasons, total
from .selection.select import real_select, select_batch


if importlib.util.find_spec("ray") is None:
    raise ImportError("`trl_real.ray` needs Ray Data: `pip install 'trl-real[ray]'`.")

FIRST = 1000  # rows from which a report takes the layout


class _Actor:
    """A map function with its options. An actor loads the embedder on the first batch and keeps it in memory."""

    _transform: Transform[..., Any]

    def __init__(self, **options: Any):
        self._options = options

    def __call__(self, batch: pa.Table) -> pa.Table:
        if not isinstance(batch, pa.Table):  # NumPy arrays represent neither lists of texts nor null
            raise TypeError(
                f"`{self._transform.__name__}` takes Arrow tables here, got {type(batch).__name__}: pass "
                '`batch_format="pyarrow"` to `map_batches`.'
            )
        return self._transform(batch, **self._options)


class EmbedResponses(_Actor):
    r"""
    [`embed_responses`] as an actor, for `ray.data.Dataset.map_batches(..., batch_format="pyarrow")`.

    Each actor loads the embedder once. It runs on the GPU that Ray assigns to the actor (`num_gpus`), or with as many threads
    as the actor has CPUs (`num_cpus`).

    Args:
        options (*optional*):
            The options of [`embed_responses`], as `fn_constructor_kwargs`. An embedder object is sent to every actor.

    Example:

    ```python
    import ray
    from trl_real.ray import EmbedResponses

    candidates = ray.data.read_parquet("candidates")
    embedded = candidates.map_batches(
        EmbedResponses, batch_format="pyarrow", batch_size=256, compute=ray.data.ActorPoolStrategy(size=8), num_gpus=1
    )
    embedded.write_parquet("embedded")
    ```
    """

    _transform = embed_responses


class RealSelect(_Actor):
    r"""
    [`real_select`] as an actor, for `ray.data.Dataset.map_batches(..., batch_format="pyarrow")`.

    It picks the same pairs as [`real_select`] with `datasets`, because picks depend neither on the batch nor on the machine.
    Without a column `embeddings`, each actor loads the embedder once, as [`EmbedResponses`] does.

    Args:
        options (*optional*):
            The options of [`real_select`], as `fn_constructor_kwargs`.

    Example:

    ```python
    import ray
    from trl_real.ray import RealSelect

    candidates = ray.data.read_parquet("candidates")
    pairs = candidates.map_batches(
        RealSelect,
        fn_constructor_kwargs={"strategy": "centroid"},
        batch_format="pyarrow",
        batch_size=256,
        compute=ray.data.ActorPoolStrategy(size=8),
        num_gpus=1,
    )
    pairs.drop_columns(["responses", "scores"]).write_parquet("pairs")
    ```
    """

    _transform = real_select


def selection_report(candidates: Any, pairs: Any, config: SelectionConfig | None = None) -> SelectionReport:
    r"""
    The report of [`select_preferences`] on pairs that were selected with Ray. Each block of rows is counted where it is, and the
    counts are added up, so that the report is the same and no machine holds all rows.

    Args:
        candidates (`ray.data.Dataset`):
            The rows that [`RealSelect`] got, with the columns of [`to_candidates`] and, unless the strategy needs none,
            `embeddings`. They are read a second time.
        pairs (`ray.data.Dataset`):
            The pairs to report on: all that [`RealSelect`] picked, or those within a budget.
        config ([`SelectionConfig`], *optional*):
            The options of the selection. If `None`, the defaults.

    Returns:
        [`SelectionReport`]: The report, without times.

    Raises:
        `ValueError`: If there are no rows, or the column `embeddings` is missing.

    Example:

    ```python
    import ray
    from trl_real.ray import selection_report

    report = selection_report(ray.data.read_parquet("embedded"), ray.data.read_parquet("pairs"))
    report.save("selection_report.json")
    ```
    """
    config = config or SelectionConfig()
    first = candidates.take_batch(FIRST, batch_format="pyarrow")
    converted = convert(Dataset(first), on_skip="keep")
    if not isinstance(converted, ConvertedPairs):
        converted.dataset = Dataset(first)  # with a column of scores, even if only later rows have any
    if needs_embeddings(converted, config):
        raise ValueError(
            "`selection_report` needs the column `embeddings`, so that it embeds nothing again. Write the rows of `EmbedResponses` "
            f"first, and pass those. Found: {first.column_names}."
        )
    check_selection(converted, config)
    config = in_effect(converted, config)
    picking = SelectionConfig(**{name: getattr(config, name) for name in SELECT_OPTIONS}, on_skip="keep")
    by_block = {"batch_format": "pyarrow", "batch_size": None}
    eligible = _add_up(candidates.map_batches(_count_candidates, **by_block, fn_kwargs={"config": picking}))
    selected = _add_up(pairs.map_batches(_count_pairs, **by_block))
    converted.rows, converted.policies = eligible.measures.rows, eligible.policies
    embedded = Embedded(converted.dataset)
    if "embeddings" in first.column_names:
        embedded.embedder = "column `embeddings`"
        embedded.responses_cut, embedded.tokens_cut = eligible.cut
    return report_on(
        converted,
        embedded,
        config,
        eligible.measures,
        selected.measures,
        dict(eligible.skipped.most_common()),
        eligible.pairs,
        selected.pairs,
    )


@dataclasses.dataclass
class _Counts:
    """
    What a report says of some rows. `policies` are those of the conversion of given pairs. `cut` holds the responses and tokens
    that the embedder cut, `None` if it does not say.
    """

    measures: Measures = dataclasses.field(default_factory=Measures)
    pairs: int = 0
    skipped: Counter[str] = dataclasses.field(default_factory=Counter)
    policies: Counter[str] = dataclasses.field(default_factory=Counter)
    cut: list[int | None] = dataclasses.field(default_factory=lambda: [0, 0])

    def update(self, other: "_Counts") -> None:
        """Add the counts of other rows."""
        self.measures.update(other.measures)
        self.pairs += other.pairs
        self.skipped.update(other.skipped)
        self.policies.update(other.policies)
        self.cut = [None if a is None or b is None else a + b for a, b in zip(self.cut, other.cut, strict=True)]

    def as_table(self) -> pa.Table:
        """The counts as the one row of a table, as Ray passes it on."""
        return pa.table({"counts": [pickle.dumps(self)]})


def _count_candidates(block: pa.Table, config: SelectionConfig) -> pa.Table:
    counts = _Counts()
    rows = Dataset(block)
    counts.cut = [total(rows, name) for name in ("responses_cut", "tokens_cut")]
    if "chosen" in rows.column_names:
        counts.policies = convert(rows, on_skip="keep").policies
    picked = Transform(select_batch)(block, config, measures=counts.measures)
    counts.skipped.update(skipped_reasons(Dataset(picked)))
    counts.pairs = picked["skip_reason"].null_count
    return counts.as_table()


def _count_pairs(block: pa.Table) -> pa.Table:
    if "skip_reason" in block.column_names:  # of rows that were kept without a pair
        block = block.filter(pc.is_null(block["skip_reason"]))
    return _Counts(measure_pairs(Dataset(block)), len(block)).as_table()


def _add_up(parts: Any) -> _Counts:
    counts = _Counts()
    for row in parts.iter_rows():
        counts.update(pickle.loads(row["counts"]))
    return counts

"""What a report on a selection is made of: the counts of its columns and measures."""

from collections import Counter
from dataclasses import dataclass

import pyarrow.compute as pc
from datasets import Dataset

from ..candidates.conversion import Converted, ConvertedPairs
from ..candidates.eligibility import POLICIES
from ..config import SelectionConfig
from ..core.columns import column_blocks
from .measures import Measures
from .report import SelectionReport


@dataclass
class Embedded:
    """
    Rows after the embedding stage.

    Attributes:
        dataset ([`~datasets.Dataset`]): The rows.
        embedder (`str` or `None`): The name of the embedder in reports; `None` if there are no embeddings.
        revision (`str` or `None`): The commit, the hash of the files or the fingerprint of the embedder.
        limit (`int` or `None`): Maximum number of tokens of a response to embed.
        responses_cut, tokens_cut (`int` or `None`): The number of longer responses, and of their tokens beyond the limit;
            `None` if unknown.
        seconds (`float`): The time of the stage.
    """

    dataset: Dataset
    embedder: str | None = None
    revision: str | None = None
    limit: int | None = None
    responses_cut: int | None = None
    tokens_cut: int | None = None
    seconds: float = 0.0


def report_on(
    converted: Converted,
    embedded: Embedded,
    config: SelectionConfig,
    eligible: Measures,
    selected: Measures,
    skipped: dict[str, int],
    n_picked: int,
    n_selected: int,
) -> SelectionReport:
    """
    The report on a selection.

    Args:
        converted, embedded, config: The rows before and after the embedding stage, and the options.
        eligible, selected ([`Measures`]): The measures of all eligible pairs, and of the selected ones.
        skipped (`dict[str, int]`): The rows without a pair, by reason.
        n_picked, n_selected (`int`): The number of pairs before and after the budget was spent.
    """
    report = SelectionReport(
        strategy=config.strategy,
        embedder=embedded.embedder,
        embedder_revision=embedded.revision,
        embedder_max_length=embedded.limit,
        budget=config.budget,
        budget_strategy=(config.budget_strategy or config.strategy) if config.is_budgeted else None,
        budget_cost=config.budget_cost,
        layout=converted.layout,
        given_pairs=isinstance(converted, ConvertedPairs),
        labeled=converted.labeled,
        rows=converted.rows,
        skipped=skipped,
        dropped={"over_budget": n_picked - n_selected} if n_picked > n_selected else {},
        policies=_in_table_order(eligible.policies + converted.policies),
        pairs=n_selected,
        responses=eligible.responses + converted.policies["empty_responses"] + converted.policies["equal_responses"],
        responses_cut=embedded.responses_cut,
        tokens_cut=embedded.tokens_cut,
    )
    report.compare(eligible.values, selected.values)
    return report


def skipped_reasons(picked: Dataset) -> dict[str, int]:
    """The number of rows without a pair by reason, most frequent first."""
    skipped = Counter[str]()
    for block in column_blocks(picked, "skip_reason"):
        skipped.update({entry["values"]: entry["counts"] for entry in pc.value_counts(block.drop_null()).to_pylist()})
    return dict(skipped.most_common())


def total(dataset: Dataset, column: str) -> int | None:
    """The sum of a column; `None` if the column is missing or contains null."""
    if column not in dataset.column_names:
        return None
    found = 0
    for block in column_blocks(dataset, column):
        if block.null_count:
            return None
        found += pc.sum(block).as_py() or 0
    return found


def _in_table_order(policies: Counter[str]) -> dict[str, int]:
    return {name: policies[name] for name in POLICIES if policies[name]}

"""Read the datasets of the trainer in any layout, and select pairs once for all ranks."""

import functools
import logging
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset, IterableDataset

from ..candidates.batch import COLUMNS, read_rows
from ..candidates.conversion import Converted, ConvertedPairs, convert
from ..candidates.eligibility import SKIP_REASONS, check_gap, find_eligible
from ..config import SelectionConfig
from ..core.columns import arrow_batches, column_names
from ..core.files import remove_folder, whole_folder
from ..core.transform import Transform
from ..embedding.checkpoints import embed_in_chunks
from ..selection.preferences import check_selection, embed_stage, needs_embeddings, select_embedded
from ..selection.report import SelectionReport
from ..selection.warn import warn_of_reversed


logger = logging.getLogger(__name__)

PAIRS, REPORT = "pairs", "report.json"


def read(dataset: Any, name: str, on_skip: str) -> Converted | None:
    """
    Read the layout of a dataset, once; `None` for what holds no rows to read: the name of a split, or tokenized pairs.

    Args:
        dataset: What the trainer got, or what the command line has read already.
        name (`str`): Its argument, for messages.
        on_skip (`str`): What [`SelectionConfig`] says of rows that cannot be used.
    """
    if isinstance(dataset, Converted):
        return dataset
    if not isinstance(dataset, Dataset | IterableDataset) or "chosen_ids" in (column_names(dataset) or []):
        return None
    streams = isinstance(dataset, IterableDataset)
    if not streams and len(dataset) == 0:
        raise ValueError(f"`{name}` is empty.")
    if not streams:
        _check_nulls(dataset, name)
    return convert(dataset, on_skip="error" if on_skip == "error" else "drop" if streams else "keep")


def _check_nulls(dataset: Dataset, name: str) -> None:
    """Raise if a side of a given pair is null: DPOTrainer would stumble over it."""
    if not {"chosen", "rejected"} <= {*dataset.column_names}:
        return
    for column in {"prompt", "chosen", "rejected"} & {*dataset.column_names}:
        if not dataset.data.column(column).null_count:
            continue
        nulls = dataset.with_format("arrow")[column][:].null_count  # of the rows that are selected
        if nulls:
            raise ValueError(
                f"Column `{column}` of `{name}` is null in {nulls} of {len(dataset)} rows. Remove them, for example with "
                f"`dataset.filter(lambda row: row['{column}'] is not None)`."
            )


def check_labels(converted: Converted, name: str) -> None:
    """Raise if nothing tells the better response of a pair."""
    if not converted.labeled:
        raise ValueError(
            f"`{name}` has no scores, so that nothing tells the chosen response from the rejected one. Found: "
            f"{converted.columns}. Add a column `scores`, or select pairs with `real_select`, have people label them "
            "with `to_label_tasks` and train on what `apply_labels` makes of it."
        )


def given_pairs(converted: ConvertedPairs, selection: SelectionConfig) -> tuple[Any, SelectionReport | None]:
    """
    Given pairs that are trained on without a budget: all but those that nobody could learn from, and the report on them; of a
    stream, of which nothing is counted, `None`.
    """
    check_gap(selection.min_score_gap, converted.columns)
    rows = converted.dataset
    judge = {"min_score_gap": selection.min_score_gap}
    if isinstance(rows, IterableDataset):
        return rows.filter(_may_be_trained_on, batched=True, fn_kwargs=judge), None
    skipped, policies, reasons = Counter[str](), Counter(converted.policies), list[str | None]()
    for batch in arrow_batches(rows, [name for name in COLUMNS if name in rows.column_names]):
        eligible = find_eligible(read_rows(batch, "RealDPOTrainer"), **judge)
        reasons += eligible.reasons
        policies += eligible.policies
    skipped.update(reason for reason in reasons if reason is not None)
    if skipped and selection.on_skip == "error":
        raise ValueError(f"{_why(skipped, len(rows))}. Mend them, or drop such rows with `on_skip='drop'`.")
    if skipped.total() == len(rows):
        raise ValueError(f"None of the {len(rows)} rows has a valid pair: {_why(skipped, len(rows))}.")
    if skipped:
        logger.warning("%s: they are left out.", _why(skipped, len(rows)))
        rows = rows.select(np.flatnonzero([reason is None for reason in reasons]))
    if "skip_reason" in rows.column_names:
        rows = rows.remove_columns("skip_reason")
    report = SelectionReport.of_given_pairs(converted.rows, dict(skipped.most_common()), dict(policies))
    warn_of_reversed(report)
    return rows, report


@Transform
def _may_be_trained_on(batch: Any, min_score_gap: float) -> list[bool]:
    return [reason is None for reason in find_eligible(read_rows(batch, "RealDPOTrainer"), min_score_gap).reasons]


def _why(skipped: Counter[str], n_rows: int) -> str:
    why = "; ".join(f"in {n} {SKIP_REASONS[reason]} ({reason})" for reason, n in skipped.most_common())
    return f"{skipped.total()} of {n_rows} given pairs are no valid pairs: {why}"


def select_on_all_ranks(
    converted: Converted, selection: SelectionConfig, folder: Path
) -> tuple[Dataset, SelectionReport]:
    """
    Select pairs: the ranks embed together, by chunks in `folder`, then one selects and the others load what it has written.
    """
    check_selection(converted, selection)
    embedded = embed_stage(
        converted,
        selection,
        needs_embeddings(converted, selection),
        functools.partial(embed_in_chunks, folder=folder),
    )
    state = PartialState()
    if state.num_processes == 1:
        return select_embedded(converted, embedded, selection)
    names = [f"selection-{uuid.uuid4().hex}"]
    broadcast_object_list(names)
    path = folder / names[0]
    if state.is_main_process:
        pairs, report = select_embedded(converted, embedded, selection)
        with whole_folder(path) as unfinished:
            pairs.save_to_disk(str(unfinished / PAIRS))
            report.save(unfinished / REPORT)
    state.wait_for_everyone()
    result = Dataset.load_from_disk(str(path / PAIRS), keep_in_memory=True), SelectionReport.load(path / REPORT)
    state.wait_for_everyone()
    if state.is_main_process:
        remove_folder(path)
    return result


def still_differ(
    prompt: list[int], chosen: list[int], rejected: list[int], max_length: int | None, truncation_mode: str
) -> bool:
    """Whether the two sides still differ after the collator truncates them."""
    if max_length is None:
        return chosen != rejected
    if truncation_mode == "keep_end":
        return (prompt + chosen)[-max_length:] != (prompt + rejected)[-max_length:]
    return (prompt + chosen)[:max_length] != (prompt + rejected)[:max_length]

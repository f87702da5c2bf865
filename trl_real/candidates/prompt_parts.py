"""Columns that belong to a prompt beside the one that is called so: Alpaca's `input`, and a system message."""

import logging
from typing import Any

from ..core.columns import column_names, first_values, read_column
from ..core.prompts import SYSTEM
from ..core.transform import Transform, map_rows


logger = logging.getLogger(__name__)

# Alpaca's task, and what it is about.
INSTRUCTION, INPUT = "instruction", "input"


def join_input(dataset: Any, columns: dict[str, str]) -> Any:
    """A dataset whose `instruction` is the prompt with `input` after it; beside another prompt `input` is named in a warning."""
    others = {*(column_names(dataset) or [])} - {*columns.values()}
    if "prompt" not in columns or INPUT not in others or not _has_text(dataset, INPUT):
        return dataset
    if columns["prompt"] != INSTRUCTION or not _has_text(dataset, INSTRUCTION):
        _warn_of_part(INPUT, columns["prompt"], "Put it there yourself if it belongs to it.")
        return dataset
    features = dataset.features
    if features is not None:
        features = type(features)({name: feature for name, feature in features.items() if name != INPUT})
    return map_rows(dataset, write_instructions, features, desc="Joining instructions", remove_columns=[INPUT])


@Transform
def write_instructions(batch: Any) -> Any:
    """Write what a task is about after it, and a blank line between them."""
    cells = zip(read_column(batch, INSTRUCTION), read_column(batch, INPUT), strict=True)
    batch[INSTRUCTION] = [
        f"{task}\n\n{about}" if isinstance(task, str) and isinstance(about, str) and about.strip() else task
        for task, about in cells
    ]
    return batch


def warn_of_system(dataset: Any, columns: dict[str, str], conversational: bool) -> None:
    """Say that the system message of a prompt that is text is left out: where it would go depends on the model."""
    others = {*(column_names(dataset) or [])} - {*columns.values()}
    prompt = columns.get("prompt")
    if conversational or prompt is None or not _has_text(dataset, prompt):
        return
    responses = columns.get("chosen") or columns.get("responses")
    if responses is not None and not _holds_text(dataset, responses):
        return
    for column in sorted(SYSTEM & others):
        if _has_text(dataset, column):
            _warn_of_part(column, prompt, "With `conversational=True` of `to_candidates` it becomes a system message.")


def _warn_of_part(column: str, prompt: str, remedy: str) -> None:
    logger.warning(
        "The column `%s` is no part of the prompt, which is read from `%s` alone. %s", column, prompt, remedy
    )


def _has_text(dataset: Any, column: str) -> bool:
    return any(isinstance(value, str) and value.strip() for value in first_values(dataset, column))


def _holds_text(dataset: Any, column: str) -> bool:
    """Whether a column holds texts, or lists of them."""
    for value in first_values(dataset, column):
        if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], str)):
            return True
    return False

"""Columns other than `prompt` that belong to the prompt: Alpaca's `input`, and a system message."""

import logging
from typing import Any

from ..core.columns import column_names, first_values, read_column
from ..core.prompts import SYSTEM
from ..core.transform import Transform, map_rows


logger = logging.getLogger(__name__)

# Alpaca's instruction, and its optional input.
INSTRUCTION, INPUT = "instruction", "input"


def join_input(dataset: Any, columns: dict[str, str]) -> Any:
    """Append `input` to `instruction` if that is the prompt. With another prompt, warn that `input` is not used."""
    others = {*(column_names(dataset) or [])} - {*columns.values()}
    if "prompt" not in columns or INPUT not in others or not _has_text(dataset, INPUT):
        return dataset
    if columns["prompt"] != INSTRUCTION or not _has_text(dataset, INSTRUCTION):
        _warn_of_part(INPUT, columns["prompt"], "If it belongs to the prompt, add it to that column.")
        return dataset
    features = dataset.features
    if features is not None:
        features = type(features)({name: feature for name, feature in features.items() if name != INPUT})
    return map_rows(dataset, write_instructions, features, desc="Joining instructions", remove_columns=[INPUT])


@Transform
def write_instructions(batch: Any) -> Any:
    """Write each instruction, a blank line and its input."""
    cells = zip(read_column(batch, INSTRUCTION), read_column(batch, INPUT), strict=True)
    batch[INSTRUCTION] = [
        f"{task}\n\n{about}" if isinstance(task, str) and isinstance(about, str) and about.strip() else task
        for task, about in cells
    ]
    return batch


def warn_of_system(dataset: Any, columns: dict[str, str], conversational: bool) -> None:
    """Warn that the system message of a text prompt is left out, because its place depends on the model."""
    others = {*(column_names(dataset) or [])} - {*columns.values()}
    prompt = columns.get("prompt")
    if conversational or prompt is None or not _has_text(dataset, prompt):
        return
    responses = columns.get("chosen") or columns.get("responses")
    if responses is not None and not _holds_text(dataset, responses):
        return
    for column in sorted(SYSTEM & others):
        if _has_text(dataset, column):
            _warn_of_part(column, prompt, "Pass `conversational=True` to `to_candidates` to make it a system message.")


def _warn_of_part(column: str, prompt: str, remedy: str) -> None:
    logger.warning(
        "The column `%s` is not part of the prompt, which is read from `%s` only. %s", column, prompt, remedy
    )


def _has_text(dataset: Any, column: str) -> bool:
    return any(isinstance(value, str) and value.strip() for value in first_values(dataset, column))


def _holds_text(dataset: Any, column: str) -> bool:
    """Whether a column holds text, or lists of text."""
    for value in first_values(dataset, column):
        if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], str)):
            return True
    return False

"""The columns and example rows that a dataset card shows."""

import math
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from ..core.messages import as_json, is_messages
from ..selection.report import SelectionReport
from . import markdown


N_EXAMPLES = 5
MEANINGS = {
    "prompt": "the prompt that both responses answer",
    "chosen": "the better response",
    "rejected": "the worse response",
    "response_a": "one response",
    "response_b": "the other response",
    "score_chosen": "the score of the better response",
    "score_rejected": "the score of the worse response",
    "similarity": "the cosine similarity of the two embeddings",
    "pair_id": "the id by which labels are matched: a hash of the prompt and both responses",
    "skip_reason": "why the prompt has no pair",
    "label_agreement": "the share of labels that prefer the chosen response",
    "n_labels": "the number of labels",
}


def describe_rows(splits: dict[str, Dataset], reports: dict[str, SelectionReport]) -> dict[str, Any]:
    """The variables of the template that describe the pairs and their reports."""
    first = next(iter(splits.values()))
    return {
        "reports": {split: reports.get(split) for split in splits},
        "labeled": "chosen" in first.column_names,
        "columns": [
            (name, _type(feature), MEANINGS.get(name, "copied from the source"))
            for name, feature in first.features.items()
        ],
        "examples": _examples(first),
    }


def _type(feature: Any) -> str:
    """A short name of a feature."""
    if isinstance(feature, dict):
        return "{" + ", ".join(feature) + "}"
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    if inner is not None:
        keys = inner if isinstance(inner, dict) else ()
        return "messages" if "role" in keys else f"list of {_type(inner)}"
    return getattr(feature, "dtype", None) or type(feature).__name__


def _examples(dataset: Dataset) -> list[dict[str, Any]]:
    """Evenly spaced rows that have a pair, in the form that the template shows."""
    sides = ("chosen", "rejected") if "chosen" in dataset.column_names else ("response_a", "response_b")
    columns = [name for name in ("prompt", *sides) if name in dataset.column_names]
    numbers = [n for n in ("similarity", "score_chosen", "score_rejected") if n in dataset.column_names]
    dataset = dataset.with_format("arrow")
    if sides[0] in columns:
        dataset = dataset.select(np.flatnonzero(pc.is_valid(dataset[sides[0]][:]).to_numpy(zero_copy_only=False)))
    where = np.unique(np.linspace(0, max(len(dataset) - 1, 0), min(N_EXAMPLES, len(dataset))).astype(int))
    return [
        {
            "note": _number(row.get("similarity"), ": similarity {:.2f}"),
            "prompt": _shown(row.get("prompt")),
            "sides": [
                (
                    side.replace("_", " ").capitalize(),
                    _number(row.get(f"score_{side}"), " (score {:g})"),
                    _shown(row[side]),
                )
                for side in sides
                if side in row
            ],
        }
        for row in dataset.select_columns([*columns, *numbers]).select(where).with_format(None)
    ]


def _number(value: Any, form: str) -> str:
    return form.format(value) if isinstance(value, int | float) and math.isfinite(value) else ""


def _shown(value: Any) -> str:
    """Text or messages in readable form, anything else as JSON."""
    if isinstance(value, str):
        return value
    if not is_messages(value):
        return as_json(value)
    turns = []
    for message in value:
        content = message.get("content")
        turns.append(
            f"{markdown.one_line(message['role'])}: {content if isinstance(content, str) else as_json(content)}"
        )
        if message.get("tool_calls"):
            turns.append(as_json(message["tool_calls"]))
    return "\n\n".join(turns)

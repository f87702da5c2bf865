"""Prodigy: tasks for its `choice` interface, and the JSONL of `prodigy db-out`."""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from ...core.columns import kind
from .entries import LABELS, Entry, decision, label_of, plain_task


def write(tasks: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Tasks as JSONL, with the two responses and the tie as options."""
    for task in map(plain_task, tasks):
        texts = {"a": task.response_a, "b": task.response_b, "tie": "Tie"}
        line = {
            "text": task.prompt,
            "options": [{"id": label, "text": text} for label, text in texts.items()],
            "pair_id": task.pair_id,
            "response_a_sha256": task.response_a_sha256,
        }
        yield json.dumps(line, ensure_ascii=False) + "\n"


def fits(value: Mapping[str, Any]) -> bool:
    """Whether a record is a task of the `choice` interface."""
    return "options" in value and "label" not in value


def read(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The decisions in the output of `prodigy db-out`. A task that was rejected, ignored or left without a choice has none."""
    for where, task in entries:
        answer, accepted, options = (task.get(name) for name in ("answer", "accept", "options"))
        if answer not in ("accept", "reject", "ignore"):
            raise ValueError(
                f"Label {where}: the `answer` must be 'accept', 'reject' or 'ignore', found {kind(answer)}. Export the answers with "
                "`prodigy db-out`."
            )
        if not isinstance(accepted, list | None) or len(accepted or ()) > 1:
            raise ValueError(
                f"Label {where}: expected at most one choice in `accept`, found {kind(accepted)}. Set `choice_style` to `single`."
            )
        label = label_of(accepted[0], where) if accepted and answer == "accept" else None
        annotator = task.get("_annotator_id") or task.get("_session_id")
        about = {**_texts(options), **{"response_a_sha256": task.get("response_a_sha256")}}
        yield Entry(where, decision(task.get("pair_id"), label, annotator, about, time=_time(task, where)))


def _texts(options: Any) -> dict[str, Any]:
    """The responses in the options."""
    found = [option for option in options if isinstance(option, Mapping)] if isinstance(options, list) else []
    return {f"response_{option['id']}": option.get("text") for option in found if option.get("id") in LABELS[:2]}


def _time(task: Mapping[str, Any], where: str) -> str | None:
    """The time of an answer, in seconds since 1970, in ISO 8601."""
    time = task.get("_timestamp")
    if time is None:
        return None
    try:
        return datetime.fromtimestamp(time, UTC).isoformat()
    except (TypeError, ValueError, OverflowError, OSError) as error:
        raise ValueError(f"Label {where}: `_timestamp` must be in seconds since 1970, found {kind(time)}.") from error

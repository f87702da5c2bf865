"""Records of labels, and tasks as plain text: what the modules of the label tools share."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ...core.columns import kind
from ..label_log import side_sha256
from ..plain_text import plain_text


LABELS = ("a", "b", "tie")


class Entry(NamedTuple):
    """
    A record of labels, and its position for error messages, which begin with "Label" and the position.

    Attributes:
        where (`str`): The position, such as `"of record 3 of export.json"`.
        value (`Mapping`): The record.
    """

    where: str
    value: Mapping[str, Any]


class Task(NamedTuple):
    """
    A task for a tool that shows plain text.

    Attributes:
        pair_id (`str`): The id of the pair.
        prompt (`str`): The prompt.
        response_a (`str`): One response.
        response_b (`str`): The other response.
        response_a_sha256 (`str`): The `side_sha256` of `response_a`, which tells apart responses that look alike.
    """

    pair_id: str
    prompt: str
    response_a: str
    response_b: str
    response_a_sha256: str


def plain_task(task: Mapping[str, Any]) -> Task:
    """A task with its prompt and responses as plain text."""
    prompt, response_a, response_b = (plain_text(task[name]) for name in ("prompt", "response_a", "response_b"))
    return Task(task["pair_id"], prompt, response_a, response_b, side_sha256(task["response_a"]))


def label_of(value: Any, where: str) -> str | None:
    """A label in upper or lower case; `None` for null and for an empty text."""
    label = value.strip().lower() if isinstance(value, str) else value
    if label in (None, ""):
        return None
    if label not in LABELS:
        raise ValueError(f"Label {where}: expected 'a', 'b', 'tie' or nothing, found {kind(value)}.")
    return str(label)


def decision(pair: Any, label: str | None, annotator: Any, data: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A line of a label log, about the responses in `data`."""
    about = {name: data[name] for name in ("response_a", "response_b", "response_a_sha256") if data.get(name)}
    return {"pair_id": pair, "label": label, "annotator": annotator, **about, **more}


def numbered(values: Iterable[Mapping[str, Any]], source: str) -> Iterator[Entry]:
    """Records with their numbers in a file."""
    for n, value in enumerate(values, 1):
        yield Entry(f"of record {n} of {source}", value)

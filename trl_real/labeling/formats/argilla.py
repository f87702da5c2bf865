"""Argilla: records to log, and the flat export of a dataset with a `LabelQuestion`."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...core.columns import kind
from .entries import Entry, decision, label_of, plain_task


logger = logging.getLogger(__name__)

QUESTION = "preference"
RESPONSES = ".responses"


def write(tasks: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Tasks as a JSON file of records for `dataset.records.log`. Logging a record again updates it, because the pair is its `id`."""
    records = [{"id": task["pair_id"], **plain_task(task)._asdict()} for task in tasks]
    yield json.dumps(records, ensure_ascii=False, indent=1) + "\n"


def fits(value: Mapping[str, Any]) -> bool:
    """Whether a record was exported by Argilla."""
    nested = isinstance(value.get("responses"), Mapping)
    return nested or "_server_id" in value or any(name.endswith(RESPONSES) for name in value)


def read(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The decisions in a flat export. A submitted response is a label, a discarded one is no decision, and a draft is left out."""
    drafts = 0
    for where, record in entries:
        if isinstance(record.get("responses"), Mapping):
            raise ValueError(
                f"Label {where}: this is the nested export of Argilla, which does not say which responses were submitted. Export with "
                "`dataset.records.to_list(flatten=True)` or `dataset.records.to_datasets()`."
            )
        question = _question(record, where)
        if question is None:  # nobody has responded yet
            continue
        values, users, states = (_column(record, question + part, where) for part in ("", ".users", ".status"))
        if not len(values) == len(users) == len(states):
            raise ValueError(
                f"Label {where}: `{question}` has {len(values)} responses, {len(users)} users and {len(states)} statuses."
            )
        pair = record.get("pair_id") or record.get("id")
        for value, user, state in zip(values, users, states, strict=True):
            if state == "draft":
                drafts += 1
            elif state in ("submitted", "discarded"):
                label = label_of(value, where) if state == "submitted" else None
                yield Entry(where, decision(pair, label, user, record))
            else:
                raise ValueError(
                    f"Label {where}: the status of a response must be 'submitted', 'discarded' or 'draft', found {kind(state)}."
                )
    if drafts:
        logger.warning("%d responses in Argilla are drafts. They do not count until they are submitted.", drafts)


def _question(record: Mapping[str, Any], where: str) -> str | None:
    """The column of the responses: that of the question `preference`, or of the only question with responses."""
    found = [name for name in record if name.endswith(RESPONSES)]
    if QUESTION + RESPONSES in found:
        return QUESTION + RESPONSES
    if len(found) > 1:
        raise ValueError(
            f"Label {where}: expected the responses to one question, found {found}. Keep the column of the question with the labels "
            "'a', 'b' and 'tie'."
        )
    return found[0] if found else None


def _column(record: Mapping[str, Any], name: str, where: str) -> list[Any]:
    """The values of the responses, their users or their statuses; null if nobody has responded."""
    values = record.get(name)
    if not isinstance(values, list | None):
        raise ValueError(f"Label {where}: expected a list in `{name}`, found {kind(values)}.")
    return values or []

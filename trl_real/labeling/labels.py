"""From labels of people back to preferences: `apply_labels`."""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, Features, Value

from ..candidates.eligibility import SKIP_REASONS
from ..config import ON_SKIP
from ..core.columns import kind
from ..core.messages import as_json
from ..core.transform import Transform, map_rows
from .tasks import TASK, as_splits, check_columns, read_jsonl


logger = logging.getLogger(__name__)

OTHER_SIDE: dict[str | None, str | None] = {"a": "b", "b": "a", "tie": "tie", None: None}


def apply_labels(dataset: Any, labels: Any, on_skip: str = "drop") -> Any:
    r"""
    Turn unlabelled pairs and their labels into preferences.

    Where several annotators labelled a pair, the side counts that more than half of them prefer. Pairs without such a
    side, and those that nobody has labelled yet, are left out with a warning that counts them.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.DatasetDict`]):
            Unlabelled pairs, with the columns that [`to_label_tasks`] shows.
        labels (`str`, `Path`, `dict` or `list`):
            A label is `"a"`, `"b"`, `"tie"` or `None`. They come as a JSONL file, each line with a `pair_id`, a `label` and
            perhaps an `annotator`; as a list of such records; as a dict of `pair_id` to label; or as a list of labels, one
            a row. Where a record has `response_a` and `response_b`, its label is about these, whichever side of the
            dataset they are on.
        on_skip (`str`, *optional*, defaults to `"drop"`):
            What happens to a pair of which no side is preferred: `"drop"` it, `"keep"` it with its responses, nulls and
            a `skip_reason`, `"missing_label"` or `"tied_labels"`, or `"error"`.

    Returns:
        As `dataset`, with `chosen` and `rejected` in place of `response_a` and `response_b`, and `label_agreement`, the
        share of the labels that are for the chosen side, if there are several annotators. Pairs that have been labelled
        by the same labels before come back as they are.

    Raises:
        `TypeError`: If `dataset` is neither, or the labels come as something else.
        `ValueError`: If a column is missing, a label is none of the four, a `pair_id` is not that of a pair, or comes
            twice from one annotator, a record is not about the responses of its pair, or the labels do not fit the rows.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from trl_real import apply_labels

    >>> pairs = Dataset.from_dict({"pair_id": ["1f"], "prompt": ["Why?"], "response_a": ["Hm."], "response_b": ["So."]})
    >>> apply_labels(pairs, {"1f": "b"})[0]
    {'pair_id': '1f', 'prompt': 'Why?', 'chosen': 'So.', 'rejected': 'Hm.'}
    ```
    """
    if on_skip not in ON_SKIP:
        raise ValueError(f"`on_skip` must be one of {list(ON_SKIP)}, got {on_skip!r}.")
    splits = as_splits(dataset)
    for rows in splits.values():
        if not _is_labelled(rows):
            check_columns(rows)
    records = _read_records(labels, splits)
    if isinstance(records, dict):
        shown = {
            task["pair_id"]: (task["response_a"], task["response_b"])
            for rows in splits.values()
            if not _is_labelled(rows)
            for task in reversed(rows.select_columns(list(TASK)).to_list())
        }
        for pair, votes in records.items():  # what does not say which sides it is about is about what annotators saw
            records[pair] = [vote._replace(sides=vote.sides or shown.get(pair)) for vote in votes]
    decided = {name: _decide(rows, records) for name, rows in splits.items()}
    if isinstance(records, dict):
        known = {pair for rows in splits.values() for pair in rows["pair_id"][:]}
        unknown = [pair for pair in records if pair not in known]
        # Of pairs that are labelled already, those that were left out are not known any more.
        if unknown and not all(map(_is_labelled, splits.values())):
            raise ValueError(f"`labels` has {len(unknown)} `pair_id`s that no pair has: {_some(unknown)}.")
    several = isinstance(records, dict) and any(len(votes) > 1 for votes in records.values())
    results = {name: _apply(rows, decided[name], several, on_skip) for name, rows in splits.items()}

    reasons = Counter(decision.reason for rows in decided.values() for decision in rows if decision.reason)
    if reasons and on_skip == "drop":
        n_pairs = sum(map(len, decided.values()))
        why = "; ".join(f"of {n} {SKIP_REASONS[reason]} ({reason})" for reason, n in reasons.most_common())
        logger.warning("`apply_labels` left out %d of %d pairs: %s.", reasons.total(), n_pairs, why)
    agreement = [decision.agreement or 0.0 for rows in decided.values() for decision in rows if not decision.reason]
    if several and agreement:
        logger.warning("Of the labels of a pair %.0f%% are for the chosen side, on average.", 100 * np.mean(agreement))
    return type(dataset)(results) if isinstance(dataset, dict) else results[""]


class Vote(NamedTuple):
    """A label, and the responses that it was given to, if they are known."""

    label: str | None
    sides: tuple[Any, Any] | None


class Decision(NamedTuple):
    """
    The side that is preferred, or why there is none, the share of the labels that agree with the most of them, and how
    many there are.
    """

    side: str | None
    reason: str | None
    agreement: float | None
    n_labels: int


def _is_labelled(rows: Dataset) -> bool:
    return {"pair_id", "chosen", "rejected"} <= set(rows.column_names) and "response_a" not in rows.column_names


def _read_records(labels: Any, splits: dict[str, Dataset]) -> dict[str, list[Vote]] | list[list[Vote]]:
    """The labels of each pair, by `pair_id`; or of each row, where they come as a list."""
    if isinstance(labels, list) and not (labels and all(isinstance(label, Mapping) for label in labels)):
        n_pairs = sum(map(len, splits.values()))
        if len(splits) > 1 or len(labels) != n_pairs:
            raise ValueError(
                f"`labels` is a list of {len(labels)} for {n_pairs} pairs. Give one label a row of one dataset, None where "
                "there is none, or a dict of `pair_id` to label."
            )
        return [[Vote(check_label(label, f"of row {r}"), None)] for r, label in enumerate(labels)]
    if isinstance(labels, str | Path):
        records = [record for _, record in read_jsonl(Path(labels))]
    elif isinstance(labels, Mapping):
        records = [{"pair_id": pair, "label": label} for pair, label in labels.items()]
    elif isinstance(labels, list):
        records = labels
    else:
        raise TypeError(f"`labels` must be a path, a dict or a list, got {kind(labels)}.")

    votes: dict[str, list[Vote]] = {}
    seen: set[tuple[str, str]] = set()
    repeated = []
    for n, record in enumerate(records, 1):
        pair = record.get("pair_id")
        if not isinstance(pair, str):
            raise ValueError(f"Label {n} of `labels`: expected a `pair_id`, found {kind(pair)}.")
        # Who labelled may be a name or a number.
        voter = (pair, str(record.get("annotator")))
        if voter in seen:
            repeated.append(pair)
        seen.add(voter)
        sides = (record.get("response_a"), record.get("response_b"))
        label = check_label(record.get("label"), f"of the pair {pair!r}")
        votes.setdefault(pair, []).append(Vote(label, None if None in sides else sides))
    if records and not any("label" in record for record in records):
        raise ValueError(f"None of the {len(records)} records of `labels` has a `label`. Found: {sorted(records[0])}.")
    repeated = list(dict.fromkeys(repeated))
    if repeated:
        raise ValueError(
            f"`labels` has {len(repeated)} `pair_id`s twice: {_some(repeated)}. Where several people label, tell them apart "
            "by `annotator`."
        )
    return votes


def check_label(label: Any, where: str) -> str | None:
    if isinstance(label, str | None) and label in OTHER_SIDE:
        return label
    raise ValueError(f"The label {where} must be 'a', 'b', 'tie' or None, found {kind(label)}.")


def _decide(rows: Dataset, records: dict[str, list[Vote]] | list[list[Vote]]) -> list[Decision]:
    """What the labels say of each row."""
    decisions = []
    for r, row in enumerate(rows.select_columns([name for name in TASK if name in rows.column_names])):
        votes = records[r] if isinstance(records, list) else records.get(row["pair_id"], [])
        counts = Counter(label for vote in votes if (label := _label_of(row, vote)) is not None)
        if not counts or None in (row["pair_id"], row.get("response_a", ""), row.get("response_b", "")):
            decisions.append(Decision(None, "missing_label", None, 0))
            continue
        label, n = counts.most_common(1)[0]
        share = n / counts.total()
        if label == "tie" or share <= 0.5:
            decisions.append(Decision(None, "tied_labels", share, counts.total()))
        else:
            decisions.append(Decision(label, None, share, counts.total()))
    return decisions


def _label_of(row: dict[str, Any], vote: Vote) -> str | None:
    """The label in terms of the sides of the row: of another selection the same pair may have them the other way round."""
    if vote.label is None or vote.sides is None or "response_a" not in row:
        return vote.label
    shown, sides = [as_json(side) for side in vote.sides], [as_json(row[side]) for side in TASK[2:]]
    if shown == sides:
        return vote.label
    if shown == sides[::-1]:
        return OTHER_SIDE[vote.label]
    raise ValueError(
        f"The label of the pair {row['pair_id']!r} is about other responses than those of the pair: {vote.sides[0]!r:.60} and "
        f"{vote.sides[1]!r:.60}. Leave the responses out of `labels`, or as `to_label_tasks` gave them."
    )


def _apply(rows: Dataset, decisions: list[Decision], several: bool, on_skip: str) -> Dataset:
    undecided = [r for r, decision in enumerate(decisions) if decision.reason]
    if _is_labelled(rows):
        if undecided:
            raise ValueError(
                f"The pairs are labelled already, and `labels` decides nothing about {len(undecided)} of them: "
                f"{_some([rows[r]['pair_id'] for r in undecided])}. Apply all labels to the unlabelled pairs."
            )
        return rows
    if undecided and on_skip == "error":
        reason = str(decisions[undecided[0]].reason)
        raise ValueError(
            f"No side is preferred of {len(undecided)} pairs. The first is {rows[undecided[0]]['pair_id']!r}: "
            f"{SKIP_REASONS[reason]} ({reason}). Leave such pairs out with `on_skip='drop'`."
        )
    features = dict(rows.features)
    if on_skip == "keep":
        features |= {"chosen": features["response_a"], "rejected": features["response_b"]}
        features["skip_reason"] = Value("string")
    else:
        rows = rows.select(np.setdiff1d(np.arange(len(rows)), undecided))
        decisions = [decision for decision in decisions if not decision.reason]
        names = {"response_a": "chosen", "response_b": "rejected"}
        features = {names.get(name, name): feature for name, feature in features.items()}
    if several:
        features |= {"label_agreement": Value("float64"), "n_labels": Value("int64")}
    return map_rows(
        rows,
        _write_sides,
        Features(features),
        desc="Applying labels",
        with_indices=True,
        fn_kwargs={"decisions": [tuple(decision) for decision in decisions], "columns": list(features)},
        remove_columns=None if on_skip == "keep" else ["response_a", "response_b"],
    )


@Transform
def _write_sides(
    batch: Any,
    indices: list[int],
    decisions: list[tuple[str | None, str | None, float | None, int]],
    columns: list[str],
) -> Any:
    labels, reasons, shares, counts = zip(*(decisions[index] for index in indices), strict=True)
    sides: dict[str | None, list[Any]] = {
        "a": batch["response_a"],
        "b": batch["response_b"],
        None: [None] * len(indices),
    }
    batch["chosen"] = [sides[label][r] for r, label in enumerate(labels)]
    batch["rejected"] = [sides[OTHER_SIDE[label]][r] for r, label in enumerate(labels)]
    if "skip_reason" in columns:
        earlier = batch["skip_reason"] if "skip_reason" in batch else [None] * len(indices)
        unpicked = [pair is None for pair in batch["pair_id"]]
        batch["skip_reason"] = [a if u else b for a, b, u in zip(earlier, reasons, unpicked, strict=True)]
    if "label_agreement" in columns:
        batch["label_agreement"], batch["n_labels"] = list(shares), list(counts)
    return batch


def _some(names: list[str]) -> str:
    """The first names of a list, for messages."""
    return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")

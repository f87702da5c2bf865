"""Turn labels into preferences: `apply_labels`."""

import logging
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, Features, Value

from ..candidates.eligibility import SKIP_REASONS
from ..config import ON_SKIP
from ..core.messages import as_json
from ..core.transform import Transform, map_rows
from .label_log import OTHER_SIDE, LabelRecord, first_names, is_turned
from .sources import read_labels
from .tasks import TASK, as_splits, check_columns


logger = logging.getLogger(__name__)


def apply_labels(dataset: Any, labels: Any, on_skip: str = "drop") -> Any:
    r"""
    Turn unlabeled pairs and their labels into preferences.

    If several annotators labeled a pair, the side that more than half of them prefer is chosen. Pairs without such a side and
    pairs without a label are left out, with a warning that counts them.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.DatasetDict`]):
            Unlabeled pairs, with the columns that [`to_label_tasks`] returns.
        labels (`str`, `Path`, `dict` or `list`):
            The labels, each `"a"`, `"b"`, `"tie"` or `None`, in one of these formats:

            - the path of a JSONL file, with `pair_id`, `label` and, optionally, `annotator` on each line;
            - a list of such records;
            - a dict that maps `pair_id` to label;
            - a list of labels, one per row.

            If a record has `response_a` and `response_b`, or `response_a_sha256`, its label refers to these responses,
            whichever side they are on in the dataset. If an annotator decided more than once, the record with the latest
            `time` counts. If that record is `undone`, none counts.
        on_skip (`str`, *optional*, defaults to `"drop"`):
            What to do with a pair without a preferred side: `"drop"` it, `"keep"` its row with nulls and a `skip_reason`
            (`"missing_label"` or `"tied_labels"`), or raise an `"error"`.

    Returns:
        The same type as `dataset`, with `chosen` and `rejected` in place of `response_a` and `response_b`. With several
        annotators, `label_agreement` is the share of labels that prefer the chosen side, and `n_labels` the number of labels.
        Pairs to which the same labels were applied before are returned unchanged.

    Raises:
        `TypeError`: If `dataset` is neither, or the labels have another type.
        `ValueError`: If a column is missing, a label is none of the four, a `pair_id` is unknown or occurs twice for the same
            annotator, a record does not refer to the responses of its pair, or the labels do not match the rows.

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
        if not _is_labeled(rows):
            check_columns(rows)
    votes = _votes(read_labels(labels, splits.values()), splits)
    decided = {name: _decide(rows, votes) for name, rows in splits.items()}
    known = {pair for rows in splits.values() for pair in rows["pair_id"][:]}
    unknown = [pair for pair in votes if isinstance(pair, str) and pair not in known]
    # If the pairs are labeled already, the ids of pairs that were left out are no longer known.
    if unknown and not all(map(_is_labeled, splits.values())):
        raise ValueError(f"`labels` has {len(unknown)} `pair_id`s that no pair has: {first_names(unknown)}.")
    several = any(len(of_pair) > 1 for of_pair in votes.values())
    results = {name: _apply(rows, decided[name], several, on_skip) for name, rows in splits.items()}

    reasons = Counter(decision.reason for rows in decided.values() for decision in rows if decision.reason)
    if reasons and on_skip == "drop":
        n_pairs = sum(map(len, decided.values()))
        why = "; ".join(f"{n} because {SKIP_REASONS[reason]} ({reason})" for reason, n in reasons.most_common())
        logger.warning("`apply_labels` left out %d of %d pairs: %s.", reasons.total(), n_pairs, why)
    agreement = [decision.agreement or 0.0 for rows in decided.values() for decision in rows if not decision.reason]
    if several and agreement:
        logger.warning("On average, %.0f%% of the labels of a pair prefer the chosen side.", 100 * np.mean(agreement))
    return type(dataset)(results) if isinstance(dataset, dict) else results[""]


class Vote(NamedTuple):
    """A label, and the sides that it refers to, if they are known."""

    label: str | None
    sides: tuple[Any, Any] | None


# The votes of each pair, by its `pair_id`, or by its row number if the labels are a list.
Votes = dict[str | int, list[Vote]]


class Decision(NamedTuple):
    """
    The preferred side or the reason why there is none, the share of labels that agree with the majority, and the number of
    labels.
    """

    side: str | None
    reason: str | None
    agreement: float | None
    n_labels: int


def check_pairs(pairs: Any) -> None:
    """Raise unless `pairs` is a dataset of unlabeled pairs."""
    if not isinstance(pairs, Dataset):
        raise TypeError(
            f"`pairs` must be a `datasets.Dataset`, got {type(pairs).__name__}. Select one split of a `DatasetDict`. Convert a "
            "stream with `Dataset.from_list(list(stream))`."
        )
    check_columns(pairs)


def _is_labeled(rows: Dataset) -> bool:
    return {"pair_id", "chosen", "rejected"} <= set(rows.column_names) and "response_a" not in rows.column_names


def _votes(records: list[LabelRecord], splits: dict[str, Dataset]) -> Votes:
    """The labels of each pair, in terms of the sides of its first row, which annotators saw."""
    shown = {
        task["pair_id"]: (task["response_a"], task["response_b"])
        for rows in splits.values()
        if not _is_labeled(rows)
        for task in reversed(rows.select_columns(list(TASK)).to_list())
    }
    votes: Votes = {}
    for record in records:
        sides = shown.get(record.pair)
        turned = sides is not None and is_turned(record, *sides)
        votes.setdefault(record.pair, []).append(Vote(OTHER_SIDE[record.label] if turned else record.label, sides))
    return votes


def _decide(rows: Dataset, votes: Votes) -> list[Decision]:
    """The decision for each row."""
    decisions = []
    for r, row in enumerate(rows.select_columns([name for name in TASK if name in rows.column_names])):
        of_row = votes.get(r) or votes.get(row["pair_id"], [])
        counts = Counter(label for vote in of_row if (label := _label_of(row, vote)) is not None)
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
    """The label in terms of the sides of the row, which may be swapped if a pair occurs twice."""
    if vote.sides is None or "response_a" not in row:
        return vote.label
    same = [as_json(side) for side in vote.sides] == [as_json(row[side]) for side in TASK[2:]]
    return vote.label if same else OTHER_SIDE[vote.label]


def _apply(rows: Dataset, decisions: list[Decision], several: bool, on_skip: str) -> Dataset:
    undecided = [r for r, decision in enumerate(decisions) if decision.reason]
    if _is_labeled(rows):
        if undecided:
            raise ValueError(
                f"The pairs are labeled already, and `labels` has no decision about {len(undecided)} of them: "
                f"{first_names([rows[r]['pair_id'] for r in undecided])}. Apply all labels to the unlabeled pairs."
            )
        return rows
    if undecided and on_skip == "error":
        reason = str(decisions[undecided[0]].reason)
        raise ValueError(
            f"{len(undecided)} pairs have no preferred side. The first is {rows[undecided[0]]['pair_id']!r}: "
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
    if (
        "embeddings" in batch and "responses" not in batch and "skip_reason" not in columns
    ):  # one vector per side, in the order of the sides
        batch["embeddings"] = [
            vectors[::-1] if label == "b" else vectors
            for label, vectors in zip(labels, batch["embeddings"], strict=True)
        ]
    if "skip_reason" in columns:
        earlier = batch["skip_reason"] if "skip_reason" in batch else [None] * len(indices)
        unpicked = [pair is None for pair in batch["pair_id"]]
        batch["skip_reason"] = [a if u else b for a, b, u in zip(earlier, reasons, unpicked, strict=True)]
    if "label_agreement" in columns:
        batch["label_agreement"], batch["n_labels"] = list(shares), list(counts)
    return batch

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
from .annotators import CLASSES, dawid_skene
from .label_log import OTHER_SIDE, LabelRecord, first_names, is_turned
from .sources import read_labels
from .tasks import TASK, as_splits, check_columns


logger = logging.getLogger(__name__)

# By which sums of the same chances may differ: what is no further above one half is a tie.
ROUNDING = 1e-9


# How the labels of several annotators become one.
AGGREGATES = ("majority", "dawid_skene")


def apply_labels(dataset: Any, labels: Any, on_skip: str = "drop", aggregate: str = "majority") -> Any:
    r"""
    Turn unlabeled pairs and their labels into preferences.

    If several annotators labeled a pair, `aggregate` decides which side is chosen. Pairs without a preferred side and pairs
    without a label are left out, with a warning that counts them.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.DatasetDict`]):
            Unlabeled pairs, with the columns that [`to_label_tasks`] returns.
        labels (`str`, `Path`, `dict`, `list` or [`~datasets.Dataset`]):
            The labels, each `"a"`, `"b"`, `"tie"` or `None`, in one of these formats:

            - the path of a JSONL file, with `pair_id`, `label` and, optionally, `annotator` on each line;
            - the path of a CSV file with these columns, or of an export of Label Studio, Argilla or Prodigy. The format is
              recognized by its content;
            - the name of a dataset on the Hub with such files in `labels/`, as [`push_label_space`] creates it;
            - a list or a dataset of such records;
            - a dict that maps `pair_id` to label;
            - a list of labels, one per row.

            If a record has `response_a` and `response_b`, or `response_a_sha256`, its label refers to these responses,
            whichever side they are on in the dataset. If an annotator decided more than once, the record with the latest
            `time` counts. If that record is `undone`, none counts.
        on_skip (`str`, *optional*, defaults to `"drop"`):
            What to do with a pair without a preferred side: `"drop"` it, `"keep"` its row with nulls and a `skip_reason`
            (`"missing_label"` or `"tied_labels"`), or raise an `"error"`.
        aggregate (`str`, *optional*, defaults to `"majority"`):
            How to combine the labels of several annotators. With only two annotators, both methods leave a pair tied if they
            disagree.

            - `"majority"`: the side that more than half of the annotators prefer.
            - `"dawid_skene"`: estimates how often each annotator is right, from how often they agree with the others. The
              chosen side is then right with a probability above one half (Dawid and Skene, 1979).

    Returns:
        The same type as `dataset`, with `chosen` and `rejected` in place of `response_a` and `response_b`. With several
        annotators, `label_agreement` is the share of labels that prefer the chosen side, and `n_labels` the number of labels.
        With `aggregate="dawid_skene"`, `label_confidence` is the probability that the chosen side is right. Pairs to which the
        same labels were applied before are returned unchanged.

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
    if aggregate not in AGGREGATES:
        raise ValueError(f"`aggregate` must be one of {list(AGGREGATES)}, got {aggregate!r}.")
    splits = as_splits(dataset)
    for rows in splits.values():
        if not _is_labeled(rows):
            check_columns(rows)
    votes = _votes(read_labels(labels, splits.values()), splits)
    chances = _chances(votes) if aggregate == "dawid_skene" else None
    decided = {name: _decide(rows, votes, chances) for name, rows in splits.items()}
    known = {pair for rows in splits.values() for pair in rows["pair_id"][:]}
    unknown = [pair for pair in votes if isinstance(pair, str) and pair not in known]
    # If the pairs are labeled already, the ids of pairs that were left out are no longer known.
    if unknown and not all(map(_is_labeled, splits.values())):
        raise ValueError(f"`labels` has {len(unknown)} `pair_id`s that no pair has: {first_names(unknown)}.")
    several = any(len(of_pair) > 1 for of_pair in votes.values())
    added: dict[str, str] = {"label_agreement": "float64", "n_labels": "int64"} if several else {}
    added |= {"label_confidence": "float64"} if chances is not None else {}
    results = {name: _apply(rows, decided[name], added, on_skip) for name, rows in splits.items()}

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
    """A decision, and the sides that it refers to, if they are known."""

    record: LabelRecord
    sides: tuple[Any, Any] | None


# The votes of each pair, by its `pair_id`, or by its row number if the labels are a list.
Votes = dict[str | int, list[Vote]]


class Decision(NamedTuple):
    """
    The result of the labels of a pair.

    Attributes:
        side (`str` or `None`): The preferred side.
        reason (`str` or `None`): The reason why there is none.
        agreement (`float` or `None`): The share of labels that prefer that side; without one, that agree on the most frequent label.
        n_labels (`int`): The number of labels.
        confidence (`float` or `None`): The probability that the side is right, with `aggregate="dawid_skene"`.
    """

    side: str | None
    reason: str | None
    agreement: float | None
    n_labels: int
    confidence: float | None = None


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
        record = record._replace(label=OTHER_SIDE[record.label]) if turned else record
        votes.setdefault(record.pair, []).append(Vote(record, sides))
    return votes


def _chances(votes: Votes) -> dict[str | int, dict[str, float]]:
    """The probability that each label of a pair is right, for the sides that annotators saw."""
    found = dawid_skene([[vote.record for vote in of_pair] for of_pair in votes.values()])
    return {
        pair: dict(zip(CLASSES, of_pair, strict=True))
        for pair, of_pair in zip(votes, found.chances.tolist(), strict=True)
    }


def _decide(rows: Dataset, votes: Votes, chances: dict[str | int, dict[str, float]] | None) -> list[Decision]:
    """The decision for each row."""
    decisions = []
    for r, row in enumerate(rows.select_columns([name for name in TASK if name in rows.column_names])):
        pair = r if r in votes else row["pair_id"]
        of_row = votes.get(pair, [])
        counts = Counter(vote.record.label for vote in of_row if vote.record.label is not None)
        if not counts or None in (row["pair_id"], row.get("response_a", ""), row.get("response_b", "")):
            decisions.append(Decision(None, "missing_label", None, 0))
            continue
        shares = {label: n / counts.total() for label, n in counts.items()}
        weights = shares if chances is None else chances[pair]
        label = max(weights, key=lambda name: weights[name])
        if label == "tie" or weights[label] <= 0.5 + ROUNDING:
            decisions.append(Decision(None, "tied_labels", max(shares.values()), counts.total()))
            continue
        side = OTHER_SIDE[label] if _is_other_way_round(row, of_row[0]) else label
        confidence = None if chances is None else weights[label]
        decisions.append(Decision(side, None, shares.get(label, 0.0), counts.total(), confidence))
    return decisions


def _is_other_way_round(row: dict[str, Any], vote: Vote) -> bool:
    """Whether the sides of a row are swapped, compared with what annotators saw. This can happen if a pair occurs twice."""
    if vote.sides is None or "response_a" not in row:
        return False
    return [as_json(side) for side in vote.sides] != [as_json(row[side]) for side in TASK[2:]]


def _apply(rows: Dataset, decisions: list[Decision], added: dict[str, str], on_skip: str) -> Dataset:
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
    features |= {name: Value(kind) for name, kind in added.items()}
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
    decisions: list[tuple[str | None, str | None, float | None, int, float | None]],
    columns: list[str],
) -> Any:
    labels, reasons, shares, counts, confidences = zip(*(decisions[index] for index in indices), strict=True)
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
    for name, values in (("label_agreement", shares), ("n_labels", counts), ("label_confidence", confidences)):
        if name in columns:
            batch[name] = list(values)
    return batch

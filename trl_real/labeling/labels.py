"""From labels of people back to preferences: `apply_labels`."""

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

    Where several annotators labeled a pair, `aggregate` says which side counts. Pairs of which no side is preferred, and those
    that nobody has labeled yet, are left out with a warning that counts them.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.DatasetDict`]):
            Unlabeled pairs, with the columns that [`to_label_tasks`] shows.
        labels (`str`, `Path`, `dict` or `list`):
            A label is `"a"`, `"b"`, `"tie"` or `None`. They come as a JSONL file, each line with a `pair_id`, a `label` and
            perhaps an `annotator`; as a list of such records; as a dict of `pair_id` to label; or as a list of labels, one
            a row. Where a record has `response_a` and `response_b`, or `response_a_sha256`, its label is about these,
            whichever side of the dataset they are on. Of an annotator who has decided again, the record with the latest
            `time` counts, and none if it is `undone`.
        on_skip (`str`, *optional*, defaults to `"drop"`):
            What happens to a pair of which no side is preferred: `"drop"` it, `"keep"` it with its responses, nulls and
            a `skip_reason`, `"missing_label"` or `"tied_labels"`, or `"error"`.
        aggregate (`str`, *optional*, defaults to `"majority"`):
            How the labels of several annotators become one. `"majority"` takes the side that more than half of them prefer.
            `"dawid_skene"` estimates how often each annotator is right, from how often they agree with the others, and takes
            the side that is then right with a chance above one half (Dawid and Skene, 1979). Where each annotator has few
            labels, both take the same side.

    Returns:
        As `dataset`, with `chosen` and `rejected` in place of `response_a` and `response_b`. If there are several annotators,
        `label_agreement` is the share of the labels that are for the chosen side, and `n_labels` is how many there are. With
        `aggregate="dawid_skene"`, `label_confidence` is the chance that the chosen side is the right one. Pairs that have
        been labeled by the same labels before come back as they are.

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
    # Of pairs that are labeled already, those that were left out are not known any more.
    if unknown and not all(map(_is_labeled, splits.values())):
        raise ValueError(f"`labels` has {len(unknown)} `pair_id`s that no pair has: {first_names(unknown)}.")
    several = any(len(of_pair) > 1 for of_pair in votes.values())
    added: dict[str, str] = {"label_agreement": "float64", "n_labels": "int64"} if several else {}
    added |= {"label_confidence": "float64"} if chances is not None else {}
    results = {name: _apply(rows, decided[name], added, on_skip) for name, rows in splits.items()}

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
    """A decision, and the sides that it is about, if they are known."""

    record: LabelRecord
    sides: tuple[Any, Any] | None


# Those of each pair by its `pair_id`, or by its row where labels come as a list.
Votes = dict[str | int, list[Vote]]


class Decision(NamedTuple):
    """
    What the labels of a pair come to.

    Attributes:
        side (`str` or `None`): The side that is preferred.
        reason (`str` or `None`): Why there is none.
        agreement (`float` or `None`): The share of the labels that are for that side; without one, for the most frequent label.
        n_labels (`int`): How many labels there are.
        confidence (`float` or `None`): The chance that the side is right, of `aggregate="dawid_skene"`.
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
            f"`pairs` must be a `datasets.Dataset`, got {type(pairs).__name__}. Take one split of a `DatasetDict`, and read a "
            "stream into one with `Dataset.from_list(list(stream))`."
        )
    check_columns(pairs)


def _is_labeled(rows: Dataset) -> bool:
    return {"pair_id", "chosen", "rejected"} <= set(rows.column_names) and "response_a" not in rows.column_names


def _votes(records: list[LabelRecord], splits: dict[str, Dataset]) -> Votes:
    """The labels of each pair, in terms of the sides that annotators saw, those of its first row."""
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
    """How likely each label is the right one of each pair, in terms of the sides that annotators saw."""
    found = dawid_skene([[vote.record for vote in of_pair] for of_pair in votes.values()])
    return {
        pair: dict(zip(CLASSES, of_pair, strict=True))
        for pair, of_pair in zip(votes, found.chances.tolist(), strict=True)
    }


def _decide(rows: Dataset, votes: Votes, chances: dict[str | int, dict[str, float]] | None) -> list[Decision]:
    """What the labels say of each row."""
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
    """Whether the sides of a row are not where annotators saw them, as may be where a pair comes twice."""
    if vote.sides is None or "response_a" not in row:
        return False
    return [as_json(side) for side in vote.sides] != [as_json(row[side]) for side in TASK[2:]]


def _apply(rows: Dataset, decisions: list[Decision], added: dict[str, str], on_skip: str) -> Dataset:
    undecided = [r for r, decision in enumerate(decisions) if decision.reason]
    if _is_labeled(rows):
        if undecided:
            raise ValueError(
                f"The pairs are labeled already, and `labels` decides nothing about {len(undecided)} of them: "
                f"{first_names([rows[r]['pair_id'] for r in undecided])}. Apply all labels to the unlabeled pairs."
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
    ):  # those of the sides, in their order
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

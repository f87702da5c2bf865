"""Group the rows of each prompt into one row with all of their responses."""

import hashlib
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, IterableDataset, List, Value

from ..core.columns import as_text_array
from ..core.messages import as_json, response_text
from ..core.transform import Transform, map_rows
from .eligibility import equal_responses, mean_score


# How often a policy was applied to a row: columns until they are counted. The first is that of pairs.
DIFFERING_PROMPTS = "_differing_prompts"
COUNTS = (DIFFERING_PROMPTS, "_empty_responses", "_equal_responses", "_averaged_scores")


def group_rows(dataset: Any, key: tuple[str, ...], wins: bool) -> Any:
    """
    Make one row of all rows of candidates that agree in the columns `key`, of which the first is the prompt.

    The rows of a prompt may lie anywhere in a [`~datasets.Dataset`], which is neither sorted nor loaded; in a stream they
    are grouped where they are adjacent, and one prompt is held at a time. A row without a prompt, or with a
    `skip_reason`, stays alone.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Rows with `responses` and perhaps `scores`.
        key (`tuple[str, ...]`):
            Columns that stay as they are. Any other column becomes a list with one item per row.
        wins (`bool`):
            Whether the scores of equal responses are wins, which are summed. Otherwise their mean is kept.

    Returns:
        As `dataset`, with the columns of `COUNTS`.
    """
    features = None if dataset.features is None else _grouped_features(dataset.features, key)
    if isinstance(dataset, IterableDataset):
        stream = {"stream": dataset, "key": key, "wins": wins}
        return IterableDataset.from_generator(_stream_groups, features=features, gen_kwargs=stream)
    keys = pa.table({"key": pa.array(_row_keys(dataset, key), pa.binary(16)), "row": np.arange(len(dataset))})
    groups = keys.group_by("key", use_threads=False).aggregate([("row", "list")])["row_list"].combine_chunks()
    first = groups.values.to_numpy()[groups.offsets.to_numpy()[:-1]]
    groups = groups.take(pa.array(np.argsort(first)))  # in the order in which the prompts first occur
    order, bounds = groups.values.to_numpy(), groups.offsets.to_numpy()
    # Mapped over the first row of each prompt, so that the result is cached beside the dataset.
    return map_rows(
        dataset.select(order[bounds[:-1]]),
        _group_batch,
        features,
        desc="Grouping rows by prompt",
        with_indices=True,
        fn_kwargs={"rows": dataset.select(order), "bounds": bounds, "key": key, "wins": wins},
        # Not of the arguments, which may hold the whole dataset.
        key=[dataset._fingerprint, key, wins],
    )


def _row_keys(dataset: Dataset, key: tuple[str, ...]) -> Iterator[bytes]:
    columns = [*key, *({"skip_reason"} & set(dataset.column_names))]
    row_numbers = itertools.count()
    for batch in dataset.select_columns(columns).iter(batch_size=10_000):
        for row, n in zip(_rows(batch), row_numbers, strict=False):
            yield _row_key(row, key) or n.to_bytes(16, "little")


def _rows(batch: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in zip(*batch.values(), strict=True):
        yield dict(zip(batch, values, strict=True))


def _row_key(row: dict[str, Any], key: tuple[str, ...]) -> bytes | None:
    """A hash of what the rows of a prompt have in common; `None` for a row that stays alone."""
    if row[key[0]] is None or row.get("skip_reason") is not None:
        return None
    text = "\n".join(as_json(row.get(name)) for name in key)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


@Transform
def _group_batch(
    batch: Any, indices: list[int], rows: Dataset, bounds: np.ndarray, key: tuple[str, ...], wins: bool
) -> Any:
    """Put all rows of some prompts in the place of the first."""
    start = bounds[indices[0]]
    ends = (bounds[indices[0] : indices[-1] + 2] - start).tolist()
    columns = rows[start : start + ends[-1]]
    prompts = [{name: values[a:b] for name, values in columns.items()} for a, b in itertools.pairwise(ends)]
    merged = _merge(prompts, key, wins)
    for name in merged[0]:
        if name not in key:
            batch[name] = [row[name] for row in merged]
    return batch


def _stream_groups(stream: IterableDataset, key: tuple[str, ...], wins: bool) -> Iterator[dict[str, Any]]:
    # By batches, which the workers of a data loader do not divide among themselves: only one of them groups.
    rows_of_stream = itertools.chain.from_iterable(map(_rows, stream.iter(batch_size=1000)))
    keyed = ((_row_key(row, key) or n, row) for n, row in enumerate(rows_of_stream))
    for _, group in itertools.groupby(keyed, key=lambda item: item[0]):
        rows = [row for _, row in group]
        yield from _merge([{name: [row.get(name) for row in rows] for name in rows[0]}], key, wins)


def _merge(prompts: list[dict[str, list[Any]]], key: tuple[str, ...], wins: bool) -> list[dict[str, Any]]:
    """The row of each prompt, from the columns of all its rows: distinct responses in the order of their first mention."""
    lists = [_flatten(columns["responses"]) for columns in prompts]
    responses = list(itertools.chain.from_iterable(lists))
    texts = as_text_array("" if response is None else response_text(response) for response in responses)
    row_of = np.repeat(np.arange(len(prompts)), [len(row) for row in lists])
    order, leaders = equal_responses(texts, row_of)
    groups: dict[int, list[int]] = {}
    for position in np.argsort(order).tolist():
        groups.setdefault(int(leaders[position]), []).append(int(order[position]))
    scores = [
        math.nan if score is None else score for columns in prompts for score in _flatten(columns.get("scores", []))
    ]

    rows: list[dict[str, Any]] = []
    for columns, row_responses in zip(prompts, lists, strict=True):
        row = {name: values[0] if name in key or name == "skip_reason" else values for name, values in columns.items()}
        row |= {
            "responses": [],
            **dict.fromkeys(COUNTS, 0),
            DIFFERING_PROMPTS: sum(columns.get(DIFFERING_PROMPTS, [])),
        }
        row["_empty_responses"] = len(row_responses)
        rows.append(row | ({"scores": []} if "scores" in columns else {}))
    for leader, group in groups.items():
        row = rows[row_of[leader]]
        row["responses"].append(responses[leader])
        row["_empty_responses"] -= len(group)
        row["_equal_responses"] += len(group) - 1
        if "scores" in row:
            merged = [scores[position] for position in group]
            score, averaged = (sum(merged), False) if wins else mean_score(merged)
            row["scores"].append(None if math.isnan(score) else score)
            row["_averaged_scores"] += averaged
    return rows


def _flatten(lists: list[list[Any] | None]) -> list[Any]:
    return list(itertools.chain.from_iterable(items or [] for items in lists))


def _grouped_features(features: Features, key: tuple[str, ...]) -> Features:
    single = {*key, "responses", "scores", "skip_reason"}  # a row with a reason stays alone
    grouped = {name: feature if name in single else List(feature) for name, feature in features.items()}
    return Features(grouped | dict.fromkeys(COUNTS, Value("int64")))

"""Columns of datasets and of the batches that `map` hands over."""

import itertools
import json
from collections.abc import Iterable, Iterator
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, IterableDataset, Json, LargeList, List
from datasets.formatting.formatting import LazyBatch, PythonFormatter


def column_names(dataset: Any) -> list[str] | None:
    """The columns of a dataset, of a stream that has no features those of its first row; `None` for anything else."""
    columns = getattr(dataset, "column_names", None)
    if columns is None and isinstance(dataset, IterableDataset):
        columns = list(next(iter(dataset), {}))
    return columns


def column_blocks(dataset: Dataset, column: str) -> Iterator[pa.ChunkedArray]:
    """A column block by block: of rows that were selected, `datasets` makes an Arrow array each, some 600 bytes."""
    for table in dataset.select_columns([column]).with_format("arrow").iter(batch_size=1000):
        yield table[column]


def first_values(dataset: Any, column: str) -> list[Any]:
    """The first cells of a column."""
    return [row.get(column) for row in itertools.islice(dataset.select_columns([column]), 100)]


def arrow_batches(dataset: Dataset, columns: list[str], batch_size: int = 1000) -> Iterator[LazyBatch]:
    """The rows of some columns as `Dataset.map` would hand them over, batch by batch."""
    formatter = PythonFormatter(features=dataset.features)
    for table in dataset.select_columns(columns).with_format("arrow").iter(batch_size):
        yield LazyBatch(table, formatter)


def is_untouched(batch: Any, name: str) -> bool:
    """Whether the column is in the Arrow table of a batch of `Dataset.map` and nobody has read it yet."""
    return name in getattr(batch, "keys_to_format", ())


def read_column(batch: Any, name: str) -> list[Any]:
    """
    A column of the batch as Python objects, whatever format the dataset has.

    A batch of `Dataset.map` decodes a column on access, and writes back what was accessed from Python objects. Decoded
    from its Arrow table instead, the column stays untouched and goes to the output as it is.
    """
    if is_untouched(batch, name):
        formatter = PythonFormatter(features=batch.formatter.features)
        return formatter.format_column(batch.pa_table.select([name]))
    return list(batch[name])


def as_arrow(batch: Any, name: str) -> Any:
    """A column of a batch of `Dataset.map` as it lies in its Arrow table; `None` if it does not."""
    if not is_untouched(batch, name):
        return None
    column = batch.pa_table[name]
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def take(values: Any, indices: np.ndarray) -> list[Any]:
    """The values, of a list or an array, at `indices`; null at those that are negative."""
    if isinstance(values, pa.Array):
        return values.take(pa.array(indices, mask=indices < 0)).to_pylist()
    return [values[i] if i >= 0 else None for i in indices.tolist()]


def lengths(lists: pa.Array) -> np.ndarray:
    """How many items each list has, none if it is null, `(n,)` int64."""
    return lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)


def has_json(feature: Any) -> bool:
    """Whether a feature is, or holds at any depth, `datasets.Json`."""
    if isinstance(feature, dict):
        return any(map(has_json, feature.values()))
    return isinstance(feature, Json) or (isinstance(feature, List | LargeList) and has_json(feature.feature))


def encode_json(value: Any, feature: Any) -> Any:
    """
    A value with what `datasets.Json` holds in it as JSON, for `datasets` to write.

    Without it `datasets` writes a text that happens to be JSON as it is, and reads `"7"` as the number 7.
    """
    if value is None or not has_json(feature):
        return value
    if isinstance(feature, Json):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(feature, dict):
        return {key: encode_json(item, feature.get(key)) for key, item in value.items()}
    return [encode_json(item, feature.feature) for item in value]


def is_text_array(column: Any) -> bool:
    """Whether a column is one of text."""
    return column is not None and (pa.types.is_string(column.type) or pa.types.is_large_string(column.type))


def as_numbers(column: pa.Array) -> np.ndarray:
    """An array of numbers as float64, NaN for null."""
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def is_number(value: Any) -> bool:
    """Whether a value is a number of any type that a column may hold: a bool is one, and so are decimals and those of NumPy."""
    return isinstance(value, Real | Decimal | np.bool_)


def as_text_array(texts: Iterable[str]) -> pa.Array:
    """Texts as an array, of any size together."""
    return pa.array(texts, type=pa.large_string())


def cell(column: str, r: int) -> str:
    """Where a cell is, for messages."""
    return f"Column `{column}`, row {r} of the batch"


def kind(value: Any) -> str:
    """What a value is, for messages."""
    return f"{type(value).__name__} ({value!r:.60})"

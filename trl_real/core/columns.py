"""Columns of datasets and of the batches that `map` hands over."""

import itertools
import json
from collections.abc import Iterable, Iterator
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset, Json, LargeList, List
from datasets.formatting.formatting import LazyBatch, PythonFormatter


# What text that is one Arrow array has room for, by its offsets of 32 bits; and what our own stages read at once.
MAX_BYTES = 2**31 - 1
BATCH_BYTES = 1 << 28


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
    return one_array(batch.pa_table[name])


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """The chunks of a column together, in types that have room for more than 2 GB of text where there is as much."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return (column.cast(_with_large_text(column.type)) if column.nbytes > MAX_BYTES else column).combine_chunks()


def _with_large_text(arrow_type: pa.DataType) -> pa.DataType:
    """The type with text of any size in place of that of at most 2 GB together."""
    if pa.types.is_string(arrow_type):
        return pa.large_string()
    if pa.types.is_list(arrow_type):
        return pa.list_(_with_large_text(arrow_type.value_type))
    if pa.types.is_struct(arrow_type):
        return pa.struct([(field.name, _with_large_text(field.type)) for field in arrow_type])
    return arrow_type


def rows_at_once(dataset: Dataset, most: int) -> int:
    """So many rows, at most `most`, that each batch of them has no more than `BATCH_BYTES`, unless a single row has more."""
    if dataset.data.nbytes <= BATCH_BYTES and dataset._indices is None:
        return most
    sizes = np.zeros(dataset.data.num_rows)
    for column in dataset.data.columns:
        sizes += np.concatenate([np.zeros(0), *map(_bytes, column.chunks)])
    if dataset._indices is not None:
        sizes = sizes[dataset._indices.column(0).to_numpy()]
    while most > 1 and np.add.reduceat(sizes, np.arange(0, len(sizes), most)).max(initial=0) > BATCH_BYTES:
        most //= 2
    return most


def _bytes(array: pa.Array) -> np.ndarray:
    """How many bytes each value of an array has, roughly, `(n,)`."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    found = array.type
    if pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_binary(found):
        return as_numbers(pc.binary_length(array).fill_null(0))
    if pa.types.is_struct(found):
        return np.sum([_bytes(field) for field in array.flatten()], axis=0)
    if pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found):
        counts = as_numbers(pc.list_value_length(array).fill_null(0)).astype(np.int64)
        if pa.types.is_primitive(found.value_type):
            return counts * 8.0
        ends, total = counts.cumsum(), np.append(0.0, _bytes(array.flatten()).cumsum())
        return total[ends] - total[ends - counts]
    return np.full(len(array), 8.0)


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

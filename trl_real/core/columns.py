"""Read the columns of datasets and of the batches that `map` passes to a function."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, IterableDataset
from datasets.formatting.formatting import LazyBatch, PythonFormatter


def column_names(dataset: Any) -> list[str] | None:
    """
    The columns of a dataset; `None` for anything else. A stream without features has the columns of its first row.
    """
    columns = getattr(dataset, "column_names", None)
    if columns is None and isinstance(dataset, IterableDataset):
        columns = list(next(iter(dataset), {}))
    return columns


def column_blocks(dataset: Dataset, column: str) -> Iterator[pa.ChunkedArray]:
    """
    A column in blocks of 1,000 rows. Read at once, a dataset with an indices mapping gives one Arrow array per row, about
    600 bytes each.
    """
    for table in dataset.select_columns([column]).with_format("arrow").iter(batch_size=1000):
        yield table[column]


def first_values(dataset: Any, column: str) -> list[Any]:
    """The first 100 values of a column."""
    return [row.get(column) for row in itertools.islice(dataset.select_columns([column]), 100)]


def arrow_batches(dataset: Dataset, columns: list[str], batch_size: int = 1000) -> Iterator[LazyBatch]:
    """Some columns of a dataset, in the batches that `Dataset.map` would pass to a function."""
    formatter = PythonFormatter(features=dataset.features)
    for table in dataset.select_columns(columns).with_format("arrow").iter(batch_size):
        yield LazyBatch(table, formatter)


def is_untouched(batch: Any, name: str) -> bool:
    """Whether the column is in the Arrow table of a batch of `Dataset.map` and has not been read yet."""
    return name in getattr(batch, "keys_to_format", ())


def read_column(batch: Any, name: str) -> list[Any]:
    """
    A column of the batch as Python objects, for any format of the dataset.

    A batch of `Dataset.map` decodes a column when it is accessed, and then writes that column back from Python objects. This
    function decodes from the Arrow table instead, so the column goes to the output unchanged.
    """
    if is_untouched(batch, name):
        formatter = PythonFormatter(features=batch.formatter.features)
        return formatter.format_column(batch.pa_table.select([name]))
    return list(batch[name])


def as_arrow(batch: Any, name: str) -> Any:
    """A column of a batch of `Dataset.map` from its Arrow table; `None` if the column is not there or was read."""
    if not is_untouched(batch, name):
        return None
    column = batch.pa_table[name]
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def take(values: Any, indices: np.ndarray) -> list[Any]:
    """The values of a list or an array at `indices`; null for negative indices."""
    if isinstance(values, pa.Array):
        return values.take(pa.array(indices, mask=indices < 0)).to_pylist()
    return [values[i] if i >= 0 else None for i in indices.tolist()]


def lengths(lists: pa.Array) -> np.ndarray:
    """The number of items in each list, 0 for null, `(n,)` int64."""
    return lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)


def is_text_array(column: Any) -> bool:
    """Whether a column holds text."""
    return column is not None and (pa.types.is_string(column.type) or pa.types.is_large_string(column.type))


def as_numbers(column: pa.Array) -> np.ndarray:
    """An array of numbers as float64, NaN for null."""
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def as_text_array(texts: Iterable[str]) -> pa.Array:
    """Texts as an array that may hold more than 2 GB."""
    return pa.array(texts, type=pa.large_string())


def cell(column: str, r: int) -> str:
    """The position of a value, for error messages."""
    return f"Column `{column}`, row {r} of the batch"


def kind(value: Any) -> str:
    """The type and the beginning of a value, for error messages."""
    return f"{type(value).__name__} ({value!r:.60})"

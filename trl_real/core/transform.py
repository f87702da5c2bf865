"""Map functions that `datasets` caches correctly, and that accept every format of a dataset."""

import functools
import os
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from types import FrameType
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, IterableDataset, Value
from datasets.arrow_writer import TypedSequence
from datasets.features.features import generate_from_arrow_type
from datasets.fingerprint import Hasher, get_temporary_cache_files_directory
from datasets.formatting.formatting import LazyBatch, PythonFormatter

from .columns import encode_json, has_json, is_untouched, rows_at_once
from .version import code_version


P = ParamSpec("P")
R = TypeVar("R")


class Transform(Generic[P, R]):
    """
    A batched map function that `datasets` caches per version of this package, and that accepts every format.

    `datasets` fingerprints a map by pickling its function, and a plain function pickles as its name only. After an upgrade
    that changes the function, `datasets` would silently serve the old cache. This wrapper pickles as its name and the
    version of the code. It pickles nothing else, so no model weights can end up in a fingerprint.

    The function gets a mapping of lists, changes it in place and returns it.
    """

    __name__: str  # of the wrapped function

    def __init__(self, function: Callable[P, R]):
        functools.update_wrapper(self, function)
        self._function = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if not args or not _is_formatted(args[0]):
            return self._function(*args, **kwargs)
        batch: Any = args[0]
        # `Dataset.map` applies `remove_columns` only to a `LazyBatch`; a stream applies it to the same dict or to a table.
        # Both pass the same batches, so only the calling module tells them apart.
        in_dataset = _calling_module() == "datasets.arrow_dataset"
        if isinstance(batch, dict) and not in_dataset:
            for name, column in batch.items():
                batch[name] = [_as_python(value, name == "embeddings") for value in column]
            return self._function(*args, **kwargs)
        lazy: Any = _as_lazy_batch(batch)
        function: Callable[..., Any] = self._function
        function(lazy, *args[1:], **kwargs)
        if not in_dataset:
            return _as_table(lazy)
        if not isinstance(batch, dict):  # `Dataset.map` does not merge a table with the answer
            list(lazy.values())
        return lazy

    def __reduce__(self) -> tuple[Any, ...]:
        return _load, (self._function.__module__, self._function.__qualname__, code_version())

    def __repr__(self) -> str:
        return f"<transform {self._function.__module__}.{self._function.__qualname__}>"


class TypedList(list[Any]):
    """A column with a fixed Arrow type, regardless of its values."""

    def __init__(self, values: Iterable[Any], arrow_type: pa.DataType):
        super().__init__(values)
        self.arrow_type = arrow_type


def map_rows(
    dataset: Any,
    function: Callable[..., Any],
    features: Features | None = None,
    desc: str | None = None,
    *,
    key: Any = None,
    temporary: bool = False,
    **options: Any,
) -> Any:
    """
    `dataset.map(function, batched=True)` for the stages of this package. The dataset has no format, the features of the
    result are known, and the cache depends only on what the result depends on.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            The rows, without a format.
        function (`Callable`):
            Takes a mapping of lists, changes it in place and returns it.
        features ([`~datasets.Features`], *optional*):
            The features of the result. If `None`, `datasets` infers them.
        desc (`str`, *optional*):
            The description of the progress bar.
        key (*optional*):
            What the result depends on besides the rows and the function, for the cache. If `None`, all of `options`.
        temporary (`bool`, *optional*, defaults to `False`):
            Whether to write the result to a temporary file instead of the cache of the dataset, for results that are used
            once.
        options (*optional*):
            The options of `map`.

    Returns:
        The same type as `dataset`. A dataset without rows gets the new columns too, unlike with `Dataset.map`.
    """
    if isinstance(dataset, IterableDataset):
        return dataset.map(function, batched=True, features=features, **options)
    encoded = {} if features is None else {name: feature for name, feature in features.items() if has_json(feature)}
    function = getattr(function, "__wrapped__", function)  # a `Transform` would look for a format
    if len(dataset) == 0 and features is not None:
        return Dataset.from_dict({name: [] for name in features}, features=features)
    name = f"{function.__module__}.{function.__qualname__}"
    fingerprint = Hasher.hash([dataset._fingerprint, name, code_version(), options if key is None else key, features])
    options["batch_size"] = rows_at_once(dataset, options.get("batch_size", 1000))
    file = None
    if temporary and dataset.cache_files and not options.get("keep_in_memory"):
        file = os.path.join(get_temporary_cache_files_directory(), f"cache-{fingerprint}.arrow")
    return dataset.map(
        _Encoding(function, encoded) if encoded else function,
        batched=True,
        features=features,
        desc=desc,
        new_fingerprint=fingerprint,
        cache_file_name=file,
        **options,
    )


class _Encoding:
    """A function of a batch after which the columns that hold `datasets.Json` are written as they are."""

    def __init__(self, function: Callable[..., Any], features: dict[str, Any]):
        self.function, self.features = function, features

    def __call__(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        batch = self.function(batch, *args, **kwargs)
        for name, feature in self.features.items():
            if name in batch and not is_untouched(batch, name) and not isinstance(batch[name], TypedList):
                batch[name] = [encode_json(value, feature) for value in batch[name]]
        return batch


def _load(module: str, name: str, version: str) -> Any:
    return getattr(import_module(module), name)


def _is_formatted(batch: Any) -> bool:
    """Whether a batch comes from a dataset with a format: a table, or lists with arrays."""
    if isinstance(batch, dict):
        if any(isinstance(column, str) for column in batch.values()):  # a single row, which the function rejects
            return False
        return any(
            hasattr(column, "__array__") or (isinstance(column, list) and any(map(_is_array, column)))
            for column in batch.values()
        )
    return isinstance(batch, pa.Table) or hasattr(batch, "to_arrow") or type(batch).__name__ == "DataFrame"


def _calling_module() -> str | None:
    """The module of `datasets` that called a transform, directly or through a wrapper of the user."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        name = frame.f_globals.get("__name__")
        if name in ("datasets.arrow_dataset", "datasets.iterable_dataset"):
            return name
        frame = frame.f_back
    return None


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__")


def _as_python(value: Any, is_matrix: bool = False) -> Any:
    """
    A value of a row as Python objects; a matrix of embeddings stays an array.

    Formats turn numbers into float32 and null into NaN. A float32 is read back as its shortest decimal, which restores
    numbers of up to six digits. Anything else that a format cut off is lost.
    """
    if isinstance(value, list):
        return [_as_python(item) for item in value]
    if isinstance(value, dict):
        return {key: _as_python(item) for key, item in value.items()}
    if not _is_array(value):
        return value
    array = np.asarray(value)
    if array.ndim == 0:
        return _as_python(array.reshape(1))[0]
    if array.ndim > 1:
        return array if is_matrix else [_as_python(row) for row in array]
    if array.dtype == np.float32 and not is_matrix:
        array = array.astype(np.str_).astype(np.float64)
    return [None if isinstance(item, float) and item != item else _as_python(item) for item in array.tolist()]


def _as_lazy_batch(batch: Any) -> LazyBatch:
    if isinstance(batch, dict):
        batch = pa.table({name: [_as_python(value) for value in column] for name, column in batch.items()})
    elif hasattr(batch, "to_arrow"):  # Polars
        batch = batch.to_arrow()
    elif not isinstance(batch, pa.Table):
        batch = pa.Table.from_pandas(batch, preserve_index=False)
    return LazyBatch(batch, PythonFormatter(features=Features.from_arrow_schema(batch.schema)))


def _as_table(batch: LazyBatch) -> pa.Table:
    """
    The columns of a batch as a table. Columns that were not read stay as they were.

    The types do not depend on the values of the batch, because the tables of all batches are concatenated afterwards.
    """
    table = batch.pa_table
    columns = {}
    for name in batch:
        if name in batch.keys_to_format:
            columns[name] = table[name]
            continue
        values = batch[name]
        feature = batch.formatter.features.get(name)
        if hasattr(values, "arrow_type"):
            feature = generate_from_arrow_type(values.arrow_type)
        elif feature == Value("null"):
            feature = None
        columns[name] = pa.array(TypedSequence(list(values), type=feature))
    out = pa.table(columns)
    features = Features.from_arrow_schema(out.schema.with_metadata(table.schema.metadata))
    return out.replace_schema_metadata(features.arrow_schema.metadata)

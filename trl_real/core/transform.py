"""What makes a function a good citizen of `datasets.map`: a version in its cache, and every format of a dataset."""

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
    A batched map function that `datasets` caches per version of this package, and that takes every format.

    `datasets` fingerprints a map by pickling its function, and a plain function pickles as nothing but its name: an
    upgrade that changes what the function does would silently be served the old cache. This wrapper pickles as its
    name and the version of the code, and never as anything else, so that no model weights can end up in a fingerprint.

    The function gets a mapping of lists, which it changes in place and returns.
    """

    __name__: str  # of the function

    def __init__(self, function: Callable[P, R]):
        functools.update_wrapper(self, function)
        self._function = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if not args or not _is_formatted(args[0]):
            return self._function(*args, **kwargs)
        batch: Any = args[0]
        # `Dataset.map` removes the columns of `remove_columns` from a `LazyBatch` alone, and a stream from the very dict
        # or a table. Both hand over the same batches: only the caller tells them apart.
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
        if not isinstance(batch, dict):  # nothing of a table is merged with the answer
            list(lazy.values())
        return lazy

    def __reduce__(self) -> tuple[Any, ...]:
        return _load, (self._function.__module__, self._function.__qualname__, code_version())

    def __repr__(self) -> str:
        return f"<transform {self._function.__module__}.{self._function.__qualname__}>"


class TypedList(list[Any]):
    """A column that knows its Arrow type, whatever it happens to hold."""

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
    `dataset.map(function, batched=True)`, as our own stages call it: over a dataset without a format, to known features, and
    cached by what the result depends on.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            The rows, without a format.
        function (`Callable`):
            Takes a mapping of lists, changes it in place and returns it.
        features ([`~datasets.Features`], *optional*):
            The features of the result. If `None`, those that `datasets` infers.
        desc (`str`, *optional*):
            What the progress bar says.
        key (*optional*):
            What the result depends on beside the rows and the function, for the cache. If `None`, all of `options`.
        temporary (`bool`, *optional*, defaults to `False`):
            Whether the result goes to a temporary file rather than beside the rows, since nobody will ask for it again.
        options (*optional*):
            Those of `map`.

    Returns:
        As `dataset`. A dataset without rows gets the columns that others get, which `Dataset.map` does not give it.
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
    """Whether a batch comes from a dataset with a format: as a table, or with arrays."""
    if isinstance(batch, dict):
        if any(isinstance(column, str) for column in batch.values()):  # a row, which the function refuses
            return False
        return any(
            hasattr(column, "__array__") or (isinstance(column, list) and any(map(_is_array, column)))
            for column in batch.values()
        )
    return isinstance(batch, pa.Table) or hasattr(batch, "to_arrow") or type(batch).__name__ == "DataFrame"


def _calling_module() -> str | None:
    """The module of `datasets` that maps a transform, through whatever the user has wrapped around it."""
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
    A value of a row as Python objects; a matrix, which an embedding is, as an array.

    Formats make float32 of numbers and NaN of null. A number of up to six digits is the shortest decimal that reads as
    its float32; what else the format has cut off of a number or a text is gone.
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
    The columns of a batch as a table, those that nobody touched as they came.

    Types do not depend on what the batch happens to hold, since whoever maps tables puts them together afterwards.
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

"""Write pairs to a file: JSONL if it can represent every value and type, Parquet otherwise."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, LargeList, List, Value
from datasets.features.features import require_storage_embed
from datasets.table import embed_table_storage

from ..core.files import whole_file


PAIRS_JSONL, PAIRS_PARQUET = "pairs.jsonl", "pairs.parquet"
# Types that JSON can represent. Numbers are read back as int64 and float64.
PLAIN = re.compile("null|bool|u?int(8|16|32|64)|float(16|32|64)|(large_)?string")
INT64 = range(-(2**63), 2**63)
# PyArrow reads a column as timestamps if all of its texts look like this.
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d(:?\d\d(:?\d\d(\.\d+)?)?)?(Z|[+-]\d\d(:?\d\d)?)?)?")
# `datasets` reads a JSON file in blocks of this many bytes, each up to the end of its last line.
BLOCK = 10 << 20
BATCH = 1000

Keys = tuple[str, ...]  # a column, and the names that lead to a value inside of its cells


class _NotJsonError(Exception):
    """The reason why a column does not fit into JSON."""


def write_pairs(pairs: Dataset, folder: Path, name: str = "pairs") -> str | None:
    """
    Write pairs or other rows so that reading the file gives the same values and types. The file is `pairs.jsonl`, or
    `pairs.parquet` if a column does not fit into JSON. Numbers keep every digit. NaN, which represents an unknown number,
    becomes null in JSON.

    Returns:
        `str` or `None`: A sentence that says why the file is not JSON; `None` if it is.
    """
    pairs = pairs.with_format(None)
    try:
        for column, feature in pairs.features.items():
            _check_feature(feature, column)
        with whole_file(folder / f"{name}.jsonl") as unfinished, open(unfinished, "w", encoding="utf-8") as file:
            file.writelines(_lines(pairs))
    except _NotJsonError as reason:
        with whole_file(folder / f"{name}.parquet") as unfinished:
            _with_media(pairs).to_parquet(str(unfinished))
        return f"The {name} are in {name}.parquet, because JSON cannot hold them: {reason}."
    return None


def _with_media(pairs: Dataset) -> Dataset:
    """The pairs with the bytes of images and audio instead of their paths."""
    if not any(map(require_storage_embed, pairs.features.values())):
        return pairs
    return pairs.with_format("arrow").map(embed_table_storage, batched=True, keep_in_memory=True)


def _check_feature(feature: Any, column: str) -> None:
    if isinstance(feature, dict):
        for inner in feature.values():
            _check_feature(inner, column)
    elif isinstance(feature, List | LargeList) and getattr(feature, "length", -1) == -1:
        _check_feature(feature.feature, column)
    elif isinstance(feature, list):
        _check_feature(feature[0], column)
    elif isinstance(feature, Value) and PLAIN.fullmatch(feature.dtype):
        return
    elif type(feature).__name__ != "Json":  # older versions of `datasets` have no `Json` feature
        what = feature.dtype if isinstance(feature, Value) else type(feature).__name__
        raise _NotJsonError(f"column `{column}` has the type {what}")


def _lines(pairs: Dataset) -> Iterator[str]:
    """
    The rows as JSON, one per line. Raise if a block of the file would be read back with other types: readers infer the types of all
    columns from the first block, and timestamps from each block.
    """
    known: set[Keys] | None = None  # the names that lead to a value in the first block
    all_dates: dict[Keys, bool] = {}  # in the block so far
    size = 0
    for row in (row for batch in pairs.iter(batch_size=BATCH) for row in _rows(batch)):
        for keys, value in _leaves(row, ()):
            _check_number(keys, value)
            if known is not None and keys not in known:
                raise _NotJsonError(
                    f"column `{keys[0]}` has no value in the first {BLOCK >> 20} MB, from which readers infer its type"
                )
            all_dates[keys] = all_dates.get(keys, True) and isinstance(value, str) and bool(TIMESTAMP.fullmatch(value))
        line = json.dumps(_without_nan(row), ensure_ascii=False, allow_nan=False) + "\n"
        yield line
        size += len(line.encode())
        if size > BLOCK:
            _check_dates(all_dates)
            known = {*all_dates} if known is None else known
            all_dates, size = {}, 0
    _check_dates(all_dates)


def _rows(batch: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in zip(*batch.values(), strict=True):
        yield dict(zip(batch, values, strict=True))


def _leaves(value: Any, keys: Keys) -> Iterator[tuple[Keys, Any]]:
    """The non-null values of a row, each with the names that lead to it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*keys, str(key)))
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, keys)
    elif value is not None and value == value:  # NaN is not equal to itself
        yield keys, value


def _check_number(keys: Keys, value: Any) -> None:
    if isinstance(value, float) and math.isinf(value):
        raise _NotJsonError(f"column `{keys[0]}` has an infinite number")
    if isinstance(value, int) and value not in INT64:
        raise _NotJsonError(f"column `{keys[0]}` has a number beyond 64 bits, {value}")


def _check_dates(all_dates: dict[Keys, bool]) -> None:
    for keys, dates in all_dates.items():
        if dates:
            raise _NotJsonError(f"column `{keys[0]}` has text that JSON readers turn into timestamps")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value

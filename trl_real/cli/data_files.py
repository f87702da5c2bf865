"""Load local files or a dataset for the command line, with errors that name the file and the line."""

import codecs
import contextlib
import glob
import gzip
import importlib.util
import io
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
from datasets import DatasetDict, IterableDatasetDict, load_dataset
from datasets.exceptions import DatasetsError
from datasets.utils.extract import Extractor
from fsspec.compression import compr


# The loader of `datasets` for each ending, which may be followed by that of a compression.
LOADERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".arrow": "arrow"}

# The packages that open what Python itself does not.
OPENERS = {"zstd": "zstandard", "lz4": "lz4", "7z": "py7zr", "rar": "rarfile"}
# What pandas takes for a missing value. In a column of text it may be an answer.
NO_VALUE = ("", "NA", "N/A", "n/a", "#N/A", "#NA", "<NA>", "NULL", "null", "NaN", "nan", "-NaN", "-nan", "None")
# Half of a character that JSON writes as two escapes, without the other half.
HALF = re.compile(
    rb"(?<!\\)(?:\\\\)*(?:\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)


def load_files(
    name: str | None, config: str | None, files: dict[str, list[str] | str | None], streaming: bool
) -> DatasetDict | IterableDatasetDict:
    """Load a dataset with the splits in `files`, from the Hub, a folder or the files."""
    given = {
        split: [paths] if isinstance(paths, str) else paths for split, paths in files.items() if paths is not None
    }
    if (not given) == (name is None):
        raise ValueError("Give either `--dataset_name` or `--data_files`.")
    if name is not None:
        dataset = load_dataset(name, name=config, streaming=streaming)
    else:
        paths = [path for split in given.values() for path in split]
        missing = [path for path in paths if not Path(path).is_file()]
        if missing:
            raise FileNotFoundError(f"`--data_files`: there is no file {missing[0]}.")
        if empty := [path for path in paths if Path(path).stat().st_size == 0]:
            raise ValueError(f"`--data_files`: {empty[0]} is empty.")
        endings = {next((end for end in Path(path).suffixes if end in LOADERS), "") for path in paths}
        if len(endings) > 1 or endings == {""}:
            raise ValueError(f"`--data_files`: expected files that end in one of {list(LOADERS)}, found {paths}.")
        loader = LOADERS[endings.pop()]
        if loader in ("json", "csv"):
            for path in paths:
                _check_opener(path)
                _check_utf8(path)
        options: dict[str, Any] = {}
        if loader == "json":
            for path in paths:
                _check_halves(path)
        elif loader == "csv":
            options = {"keep_default_na": False, "na_values": _missing_values(paths[0])}
        try:
            # The loader takes paths for patterns.
            escaped = {split: [glob.escape(path) for path in paths] for split, paths in given.items()}
            dataset = load_dataset(loader, data_files=escaped, streaming=streaming, **options)
        except (DatasetsError, ValueError, StopIteration) as error:
            for path in paths if loader == "json" else ():
                _check_lines(path)
            raise ValueError(
                f"`--data_files`: {', '.join(paths)} cannot be read as {loader}: {_why(error)}"
            ) from error
    for split in files:
        if split not in dataset:
            raise ValueError(
                f"There is no split {split!r}. Found: {list(dataset)}. Name it with `--dataset_train_split` or "
                "`--dataset_test_split`; of local files, `--eval_data_files` are for evaluation."
            )
    return dataset


def _why(error: Exception) -> str:
    """What a loader says: of an error of `datasets` the cause, and of one without words that there is nothing to read."""
    cause = error.__cause__ if isinstance(error, DatasetsError) and error.__cause__ is not None else error
    return str(cause) or "there are no rows"


def _check_utf8(path: str) -> None:
    """Raise unless a text file is UTF-8: the JSON reader of PyArrow takes any bytes, and what reads them later may crash."""
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    for block in _blocks(path):
        held = decoder.getstate()[0]  # of a character that began in the last block
        try:
            decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            line += (held + block).count(b"\n", 0, error.start)
            found = "utf-16" if error.object.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "latin1"
            raise ValueError(
                f"`--data_files`: {path} is not UTF-8: byte 0x{error.object[error.start]:02x} in line {line} "
                f"({error.reason}). Convert it, for example with `iconv -f {found} -t utf-8`."
            ) from error
        if b"\0" in block:
            line += block.count(b"\n", 0, block.index(b"\0"))
            raise ValueError(
                f"`--data_files`: {path}, line {line}: found a NUL byte. The file is damaged, or is no text in UTF-8."
            )
        line += block.count(b"\n")


def _check_opener(path: str) -> None:
    """Raise if the package that opens a compressed file is not installed."""
    with _decompressing(path):  # which takes a look inside
        package = OPENERS.get(Extractor.infer_extractor_format(path) or "")
    if package is not None and importlib.util.find_spec(package) is None:
        raise ImportError(
            f"`--data_files`: {path} is compressed, and the package that opens it is missing: `pip install {package}`."
        )


def _check_halves(path: str) -> None:
    """Raise if a text in a JSON file holds half a character, which the loader blames on something else."""
    for n, line in enumerate(_blocks(path, by_line=True), 1):
        if half := HALF.search(line):
            raise ValueError(
                f"`--data_files`: {path}, line {n}: found half a character, {half[0].decode()}, in a text that was cut in the "
                "middle of it, of an emoji for example. Remove it, or write the text anew."
            )


def _missing_values(path: str) -> dict[str, list[str]]:
    """What stands for a missing value in each column of a CSV file: in a column of text nothing but an empty cell."""
    try:
        head = pd.read_csv(path, nrows=10_000, engine="python", on_bad_lines="skip")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError):  # which the loader will tell in full
        return {}
    numbers = {str(name) for name in head if pd.api.types.is_numeric_dtype(head[name]) and head[name].notna().any()}
    return {str(name): list(NO_VALUE) if str(name) in numbers else [""] for name in head}


def _check_lines(path: str) -> None:
    """Raise if a line of a JSONL file is not JSON: the loader counts from 0, within a block, and leaves out the file."""
    for n, line in enumerate(_blocks(path, by_line=True), 1):
        text = line.decode("utf-8-sig").strip()
        try:
            json.loads(text or "null")
        except (ValueError, RecursionError) as error:
            if n == 1 and (text.startswith("[") or ".jsonl" not in Path(path).suffixes):
                return  # one document over many lines
            raise ValueError(
                f"`--data_files`: {path}, line {n}: expected JSON, found {text!r:.60}: {error}."
            ) from error


def _blocks(path: str, by_line: bool = False) -> Iterator[bytes]:
    """A file in blocks or lines, decompressed, then an empty one; nothing of an archive that fsspec cannot open."""
    try:
        with _decompressing(path):
            compression = Extractor.infer_extractor_format(path)
            if compression is not None and compression not in compr:
                return
            with fsspec.open(path, "rb", compression=compression) as file:
                while block := file.readline() if by_line else file.read(1 << 20):
                    yield block
    except io.UnsupportedOperation:  # of lines, by some decompressors
        return
    yield b""


@contextlib.contextmanager
def _decompressing(path: str) -> Iterator[None]:
    """Name the file that cannot be decompressed."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"`--data_files`: {path} cannot be decompressed: {error}") from error

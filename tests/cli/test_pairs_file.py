import datetime
import decimal
import itertools
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import (
    Array2D,
    Array3D,
    ClassLabel,
    Dataset,
    Features,
    Image,
    Json,
    LargeList,
    List,
    Sequence,
    Translation,
    TranslationVariableLanguages,
    Value,
    load_dataset,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Picture

from trl_real import apply_labels, to_label_tasks
from trl_real.cli import pairs_file
from trl_real.cli.pairs_file import write_pairs
from trl_real.selection.select import pair_id


def written(rows, folder):
    """The pairs as they are read back, the name of their file and why it is no JSON."""
    folder.mkdir(exist_ok=True)
    note = write_pairs(rows, folder)
    (path,) = folder.iterdir()
    loader = {"pairs.jsonl": "json", "pairs.parquet": "parquet"}[path.name]
    read = load_dataset(loader, data_files=str(path), split="train", cache_dir=str(folder / "cache"))
    return read, path.name, note


def widened(feature):
    """What JSON makes of a type that it can hold."""
    if isinstance(feature, dict):
        return {name: widened(inner) for name, inner in feature.items()}
    if isinstance(feature, List | LargeList):
        return List(widened(feature.feature))
    kind = feature.dtype.strip("0123456789").removeprefix("u").removeprefix("large_")
    return Value({"int": "int64", "float": "float64"}.get(kind, kind))


NUMBERS = {f"int{bits}": [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, None] for bits in (8, 16, 32, 64)}
NUMBERS |= {f"uint{bits}": [0, 2**bits - 1, None] for bits in (8, 16, 32)}
NUMBERS |= {
    "float16": [0.0999755859375, -65504.0, None],
    "float32": [float(np.float32(0.1)), 1.401298464324817e-45, None],
    "float64": [0.1 + 0.2, 5e-324, 1e-12],
}
IN_JSON = [
    *((Value(kind), values) for kind, values in NUMBERS.items()),
    (Value("float64"), [1.7976931348623157e308, -0.0, 3.0]),
    (Value("bool"), [True, None, False]),
    (Value("string"), ['"\\\n\r\u2028\0\x1f café 🙂', "", "2024-01-01"]),
    (Value("large_string"), ["a", None, "b"]),
    (List(Value("float32")), [[0.5, None], [], None]),
    (LargeList(Value("int32")), [[1], [2, 3], []]),
    (
        List({"role": Value("string"), "n": Value("int8")}),
        [[{"role": "user", "n": 1}], [], [{"role": "a", "n": None}]],
    ),
    (
        {"a": Value("string"), "b": {"c": Value("int64")}},
        [{"a": "x", "b": {"c": 2**53 + 1}}, {"a": None, "b": None}, None],
    ),
    (List(List(Value("string"))), [[["a"], []], [["b"]], []]),
]
DAY = datetime.date(2024, 2, 29)
MOMENT = datetime.datetime(2024, 2, 29, 12, 30, 15)
IN_PARQUET = [
    (Value("uint64"), np.array([2**64 - 1, 0, 1], dtype=np.uint64), "a number beyond 64 bits, 18446744073709551615"),
    (Value("float32"), [math.inf, 0.0, None], "an infinite number"),
    (List({"x": Value("float64")}), [[{"x": -math.inf}], [], []], "an infinite number"),
    (
        Value("string"),
        ["2024-01-01", None, "2024-01-01T12:00:00"],
        "text that JSON readers turn into timestamps",
    ),
    (Value("timestamp[ns]"), [MOMENT, None, MOMENT], "the type timestamp[ns]"),
    (Value("timestamp[us, tz=UTC]"), [MOMENT.replace(tzinfo=datetime.UTC)] * 3, "the type timestamp[us, tz=UTC]"),
    (Value("date32"), [DAY, None, DAY], "the type date32"),
    (Value("time64[us]"), [datetime.time(1, 2, 3, 4), None, datetime.time(0)], "the type time64[us]"),
    (Value("duration[ms]"), [datetime.timedelta(milliseconds=7), None, None], "the type duration[ms]"),
    (Value("decimal128(20, 5)"), [decimal.Decimal("1.00001"), None, None], "the type decimal128(20, 5)"),
    (Value("binary"), [b"\0\xff", None, b""], "the type binary"),
    (ClassLabel(names=["no", "yes"]), [0, 1, 1], "the type ClassLabel"),
    (List(Value("int32"), length=2), [[1, 2], [3, 4], [5, 6]], "the type List"),
    (Array2D((1, 2), "float32"), [[[1.0, 2.0]], [[3.0, 4.0]], [[5.0, 6.0]]], "the type Array2D"),
    (Translation(["de", "en"]), [{"de": "Hut", "en": "hat"}] * 3, "the type Translation"),
    (Value("time32[ms]"), [datetime.time(1, 2, 3, 4000), None, None], "the type time32[ms]"),
    (Value("time64[ns]"), [datetime.time(1, 2, 3, 4), None, None], "the type time64[ns]"),
    (Value("duration[ns]"), [datetime.timedelta(microseconds=7), None, None], "the type duration[ns]"),
    (Value("decimal256(50, 5)"), [decimal.Decimal("1.00001"), None, None], "the type decimal256(50, 5)"),
    (Value("large_binary"), [b"\0\xff", None, b""], "the type large_binary"),
    (Array3D((1, 1, 2), "int8"), [[[[1, 2]]]] * 3, "the type Array3D"),
    (TranslationVariableLanguages(["de"]), [{"de": ["Hut", "Mütze"]}] * 3, "the type TranslationVariableLanguages"),
    ({"deep": {"day": Value("date32")}}, [{"deep": {"day": DAY}}] * 3, "the type date32"),
]


def table(feature, values):
    features = Features({"prompt": Value("string"), "x": feature})
    if isinstance(values, np.ndarray):
        return Dataset(pa.table({"prompt": ["p", "q", "r"], "x": values}))
    return Dataset.from_dict({"prompt": ["p", "q", "r"], "x": values}, features=features)


@pytest.mark.parametrize(("feature", "values"), IN_JSON, ids=lambda value: str(value)[:40])
def test_what_json_holds_is_read_as_it_was(feature, values, tmp_path):
    rows = table(feature, values)
    read, name, note = written(rows, tmp_path)
    assert (name, note) == ("pairs.jsonl", None)
    assert read.to_list() == rows.to_list()
    assert list(map(str, read["x"])) == list(map(str, rows["x"]))  # -0.0, True
    assert read.features["x"] == widened(feature)


@pytest.mark.parametrize(("feature", "values", "why"), IN_PARQUET, ids=lambda value: str(value)[:40])
def test_what_json_cannot_hold_is_in_parquet(feature, values, why, tmp_path):
    rows = table(feature, values)
    read, name, note = written(rows, tmp_path)
    assert name == "pairs.parquet"
    assert note.startswith("The pairs are in pairs.parquet, because JSON cannot hold them: column `x` has ")
    assert why in note
    assert read.features == rows.features
    assert read.with_format("arrow")[:].equals(rows.with_format("arrow")[:])
    assert read.to_list() == rows.to_list()


@pytest.mark.parametrize(
    ("kind", "value", "read_as"),
    [
        ("date64", DAY, "date32"),
        ("timestamp[s]", MOMENT, "timestamp[ms]"),
        ("time32[s]", datetime.time(1, 2, 3), "time32[ms]"),
    ],
)
def test_times_have_the_units_of_parquet(kind, value, read_as, tmp_path):
    read, name, _ = written(table(Value(kind), [value, None, value]), tmp_path)
    assert (name, read["x"][:]) == ("pairs.parquet", [value, None, value])
    assert read.features["x"] == Value(read_as)


def test_images_are_kept_with_their_bytes(tmp_path):
    Picture.new("RGB", (2, 3), (10, 20, 30)).save(tmp_path / "a.png")
    rows = table(Image(), [str(tmp_path / "a.png"), None, None])
    read, name, note = written(rows, tmp_path / "out")
    assert name == "pairs.parquet"
    assert "column `x` has the type Image" in note
    (tmp_path / "a.png").unlink()
    assert read.features == rows.features
    assert np.asarray(read[0]["x"]).tolist() == [[[10, 20, 30]] * 2] * 3


def test_json_of_any_shape(tmp_path):
    values = [{"a": 1, "b": [1, "x", {}]}, {"c": None}, ["d", 2.5]]
    read, name, _ = written(table(Json(), values), tmp_path)
    assert name == "pairs.jsonl"
    assert read["x"][:] == values
    assert json.loads((tmp_path / "pairs.jsonl").read_text().splitlines()[1])["x"] == {"c": None}


def test_a_dict_of_lists(tmp_path):
    rows = table(Sequence({"a": Value("int64")}), [{"a": [1, 2]}, {"a": []}, {"a": [3]}])
    assert written(rows, tmp_path)[0].to_list() == rows.to_list()


def test_nan_is_unknown(tmp_path):
    rows = table(List(Value("float32")), [[math.nan, 1.0], [math.nan], None])
    read, name, _ = written(rows, tmp_path)
    assert (name, read["x"][:]) == ("pairs.jsonl", [[None, 1.0], [None], None])


@pytest.mark.parametrize("late", ["value", "dates"])
def test_a_column_whose_type_shows_late_is_in_parquet(late, tmp_path, monkeypatch):
    monkeypatch.setattr(pairs_file, "BLOCK", 1000)
    monkeypatch.setattr(pairs_file, "BATCH", 100)
    values = [None] * 300 if late == "value" else ["x"] * 300
    rows = Dataset.from_dict({"prompt": ["some words"] * 400, "x": [*values, *["2024-01-01"] * 100]})
    if late == "value":
        rows = rows.map(lambda row: {"x": row["x"] and "words"})
    read, name, note = written(rows, tmp_path)
    assert name == "pairs.parquet"
    assert ("no value in the first" if late == "value" else "timestamps") in note
    assert read.to_list() == rows.to_list()


@pytest.mark.parametrize("text", ["long " * 4000, "长" * 7000], ids=["ascii", "chinese"])
@pytest.mark.parametrize(
    ("early", "late", "kept"),
    [(None, "a note", "parquet"), ("2024-01-01", "unknown", "parquet"), ("unknown", None, "jsonl")],
)
def test_what_readers_infer_from_the_first_block_holds_for_all(text, early, late, kept, tmp_path):
    """Of 18 MB in few rows, whose types `datasets` infers from the first 10 MB."""
    rows = Dataset.from_dict({"prompt": [text] * 900, "note": [early] * 850 + [late] * 50})
    read, name, _ = written(rows, tmp_path)
    assert name == f"pairs.{kept}"
    assert read["note"][:] == rows["note"][:]


def test_text_that_is_only_at_first_like_dates_stays_text(tmp_path):
    rows = Dataset.from_dict({"note": ["2024-01-01"] * 60_000 + ["unknown"]})
    read, name, _ = written(rows, tmp_path)
    assert name == "pairs.jsonl"
    assert read["note"][:] == rows["note"][:]


def test_a_selection_of_rows_in_another_format(tmp_path):
    rows = table(Value("int32"), [1, 2, 3]).select([2, 0]).with_format("numpy")
    assert written(rows, tmp_path)[0]["x"][:] == [3, 1]


@settings(max_examples=30)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=50, unique=True))
def test_the_better_side_stays_the_better_one(scores):
    pairs = [(max(a, b), min(a, b)) for a, b in itertools.pairwise(scores) if a != b]
    if not pairs:
        return
    better, worse = zip(*pairs, strict=True)
    rows = Dataset.from_dict({"score_chosen": list(better), "score_rejected": list(worse)})
    with tempfile.TemporaryDirectory() as folder:
        write_pairs(rows, Path(folder))
        lines = [json.loads(line) for line in (Path(folder) / "pairs.jsonl").read_text().splitlines()]
    assert [(row["score_chosen"], row["score_rejected"]) for row in lines] == pairs
    assert all(row["score_chosen"] > row["score_rejected"] for row in lines)


def test_labels_of_the_tasks_fit_the_pairs_that_are_read(tmp_path):
    call = {"name": "f", "arguments": {"x": 1e-12, "big": 2**60, "day": "2024-01-01", "none": None}}
    sides = [[{"role": "assistant", "content": text, "tool_calls": [call]}] for text in ("yes", "no")]
    prompt = [{"role": "user", "content": "Which?", "tool_calls": None}]
    row = {"prompt": prompt, "response_a": sides[0], "response_b": sides[1], "similarity": 0.1}
    rows = Dataset.from_list([{**row, "pair_id": pair_id(prompt, *sides)}])
    tasks = tmp_path / "tasks.jsonl"
    to_label_tasks(rows, tasks)
    to_label_tasks(rows, tasks)
    read, _, _ = written(rows, tmp_path / "out")
    labels = tmp_path / "labels.jsonl"
    labels.write_text(json.dumps({**json.loads(tasks.read_text()), "label": "b"}) + "\n")
    assert apply_labels(read, labels)[0]["chosen"][0]["content"] == "no"

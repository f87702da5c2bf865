"""The files of the command line; what is said of them is tested with the commands."""

import gzip
import json
import re

import pytest

from trl_real.cli import data_files
from trl_real.cli.data_files import _check_utf8, load_files


@pytest.mark.parametrize("shift", range(4))
def test_a_character_may_lie_across_blocks(shift, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"x" * shift + "日".encode() * 700_000)
    _check_utf8(str(path))


def test_a_split_may_have_several_files(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(f'{{"prompt": "{name}"}}\n')
    paths = [str(tmp_path / f"{name}.jsonl") for name in "ab"]
    loaded = load_files(None, None, {"train": paths, "test": paths[0]}, streaming=False)
    assert loaded["train"]["prompt"][:] == ["a", "b"]
    assert loaded["test"]["prompt"][:] == ["a"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_answers_that_look_like_missing_values_are_text(ending, streaming, tmp_path):
    text = "prompt,chosen,rejected,score_chosen\nq,NA,None,1.5\nr,null,nan,NA\ns,,n/a,2\n"
    path = tmp_path / f"a{ending}"
    path.write_bytes(gzip.compress(text.encode()) if ending.endswith("gz") else text.encode())
    rows = list(load_files(None, None, {"train": str(path)}, streaming=streaming)["train"])
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("NA", "None"), ("null", "nan"), (None, "n/a")]
    assert [row["score_chosen"] for row in rows] == [1.5, None, 2.0]


@pytest.mark.parametrize("half", ["\\ud83d", "\\uDE00", "\\ude00\\ud83d", "\\ud83d\\n", "\\\\\\ud83d"])
def test_half_a_character_is_named_with_its_line(half, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "p"}\n{"prompt": "q ' + half + '"}\n')
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 2: found half a character")):
        load_files(None, None, {"train": str(path)}, streaming=False)


def test_whole_characters_and_escaped_backslashes_are_no_halves(tmp_path):
    texts = ["\U0001f600", "\\ud83d", "\\\\ude00"]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    assert load_files(None, None, {"train": str(path)}, streaming=False)["train"]["prompt"][:] == texts


def test_the_package_that_opens_a_file_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(bytes.fromhex("28b52ffd04000100000099e9d851"))  # an empty file, compressed
    monkeypatch.setattr(data_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="the package that opens it is missing: `pip install zstandard`"):
        load_files(None, None, {"train": str(path)}, streaming=False)

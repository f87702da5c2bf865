"""The files of the command line; what is said of them is tested with the commands."""

import pytest

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

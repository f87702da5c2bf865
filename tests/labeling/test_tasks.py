import json
import os

import numpy as np
import pytest
from conftest import candidate_rows
from datasets import Dataset

from trl_real import real_select, to_label_tasks


@pytest.fixture(scope="module")
def pairs():
    rows = candidate_rows(np.random.default_rng(0), 8, scores=False)
    options = {"strategy": "random"}
    return Dataset.from_list(rows).map(real_select, batched=True, remove_columns=["responses"], fn_kwargs=options)


def test_tasks_that_nobody_has_touched_are_replaced(pairs, tmp_path):
    path = tmp_path / "tasks.jsonl"
    for n in (3, 8, 5):
        to_label_tasks(pairs.select(range(n)), path)
        assert len(path.read_text().splitlines()) == n
    before = os.lstat(path)
    path.write_text("".join(f"\n{line}\n" for line in path.read_text().splitlines()))  # blank lines are nobody's work
    to_label_tasks(pairs, str(path))
    assert len(path.read_text().splitlines()) == 8
    assert os.lstat(path) != before
    assert list(tmp_path.iterdir()) == [path]


def relabeled(line, **changes):
    return json.dumps(json.loads(line) | changes)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda line: relabeled(line, label="a"), "line 3 has the field `label`"),
        (lambda line: relabeled(line, label=None), "line 3 has the field `label`"),
        (lambda line: relabeled(line, annotator="anna"), "line 3 has the field `annotator`"),
        (
            lambda line: relabeled(line, response_a="better words"),
            "line 3 has a `pair_id` that does not match the prompt and",
        ),
        (lambda line: relabeled(line, pair_id="mine"), "line 3 has a `pair_id` that does not match the prompt and"),
        (lambda line: '{"pair_id": "1f", "label": "a"}', "line 3 has no field `prompt`"),
        (lambda line: "to do: the rest", "line 3: expected JSON, found 'to do: the rest'"),
        (lambda line: "[1]", "line 3: expected an object with `pair_id` and `label`, found list"),
    ],
)
def test_work_of_somebody_is_not_replaced(change, found, pairs, tmp_path):
    path = tmp_path / "tasks.jsonl"
    to_label_tasks(pairs, path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], change(lines[2]), *lines[3:]]) + "\n")
    before = path.read_bytes()
    with pytest.raises(FileExistsError) as error:
        to_label_tasks(pairs, path)
    assert f"{path} is not replaced, because it contains more than unmodified tasks: " in str(error.value)
    assert found in str(error.value)
    assert str(error.value).endswith("Move it, or choose another path.")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"# notes\n", b'{"a": 1}'])
def test_a_file_of_another_kind_is_not_replaced(content, pairs, tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(content)
    with pytest.raises(FileExistsError, match=r"tasks\.jsonl is not replaced"):
        to_label_tasks(pairs, path)
    assert path.read_bytes() == content


def test_either_both_files_are_written_or_none(pairs, tmp_path):
    (tmp_path / "tasks.xml").write_text("of a user")
    with pytest.raises(FileExistsError, match=r"tasks\.xml is there already and may contain labels"):
        to_label_tasks(pairs, tmp_path / "tasks.json", format="label_studio")
    with pytest.raises(ValueError, match=r"the labeling interface gets the ending \.xml"):
        to_label_tasks(pairs, tmp_path / "more.xml", format="label_studio")
    assert [path.name for path in tmp_path.iterdir()] == ["tasks.xml"]


def test_tasks_are_not_written_through_a_link(pairs, tmp_path):
    to_label_tasks(pairs.select(range(2)), tmp_path / "other.jsonl")
    (tmp_path / "tasks.jsonl").symlink_to(tmp_path / "other.jsonl")
    with pytest.raises(FileExistsError, match=r"tasks\.jsonl is a link and will not be overwritten"):
        to_label_tasks(pairs, tmp_path / "tasks.jsonl")
    assert len((tmp_path / "other.jsonl").read_text().splitlines()) == 2

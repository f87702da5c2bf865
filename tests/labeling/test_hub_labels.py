"""Labels in a dataset on the Hub: all of its logs together are one source of labels."""

import json

import pytest
from conftest import HashEmbedder
from huggingface_hub import HfApi
from local_hub import ALICE
from local_page import unlabeled

from trl_real import apply_labels, label_progress, label_reliability, next_pairs
from trl_real.labeling.hub_labels import is_dataset_id


LABELS = "alice/labels"
PAIRS = unlabeled(4)


@pytest.fixture(autouse=True)
def api(monkeypatch, hub, tmp_path):
    monkeypatch.setenv("HF_TOKEN", ALICE)
    monkeypatch.chdir(tmp_path)
    api = HfApi()
    api.create_repo(LABELS, repo_type="dataset", private=True)
    return api


def put(name, *records):
    lines = "".join(
        json.dumps({"pair_id": pair, "label": label, "annotator": "anna", "time": f"2026-01-0{day}T00:00:00Z"}) + "\n"
        for pair, label, day in records
    )
    HfApi().upload_file(
        path_or_fileobj=lines.encode(), path_in_repo=name, repo_id=LABELS, repo_type="dataset", commit_message=name
    )


def test_all_logs_count_and_the_latest_decision_wins(caplog):
    put("labels/1.jsonl", ("0", "a", 3), ("1", "a", 1))
    put("labels/2.jsonl", ("0", "b", 2), ("1", "b", 2), ("2", "tie", 1))
    put("other.jsonl", ("3", "a", 1))
    preferences = apply_labels(PAIRS, LABELS)
    assert preferences["pair_id"][:] == ["0", "1"]
    assert preferences["chosen"][:] == ["one 0", "two 1"]
    assert next_pairs(PAIRS, LABELS)["pair_id"][:] == ["3"]
    assert label_progress(PAIRS, LABELS, embedder=HashEmbedder()).reasons
    with pytest.raises(ValueError, match="Found 2 pairs of 2 prompts"):
        label_reliability(PAIRS, labels=LABELS, embedder=HashEmbedder())


def test_new_labels_are_seen_at_once():
    put("labels/1.jsonl", ("0", "a", 1))
    assert len(next_pairs(PAIRS, LABELS)) == 3
    put("labels/1.jsonl", ("0", "a", 1), ("1", "a", 1))
    assert len(next_pairs(PAIRS, LABELS)) == 2


def test_a_new_dataset_for_labels_has_none_yet(api):
    card = b"---\ntags:\n- label-log\n---\n"
    api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=LABELS, repo_type="dataset")
    assert len(next_pairs(PAIRS, LABELS)) == 4


def test_a_local_file_comes_first(tmp_path):
    put("labels/1.jsonl", ("0", "a", 1))
    (tmp_path / "alice").mkdir()
    (tmp_path / "alice" / "labels").write_text('{"pair_id": "1", "label": "a"}\n')
    assert apply_labels(PAIRS, LABELS)["pair_id"][:] == ["1"]


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ("alice/nothing", FileNotFoundError, "`alice/nothing` is neither a local file with labels nor a dataset"),
        ("alice/labels", ValueError, "The dataset 'alice/labels' on the Hub has no labels: it has no files `labels/"),
        ("project/labels.jsonl", FileNotFoundError, "No such file or directory: 'project/labels.jsonl'"),
        ("labels", FileNotFoundError, "No such file or directory: 'labels'"),
    ],
)
def test_what_is_neither_file_nor_dataset_is_said(labels, error, message):
    with pytest.raises(error, match=message):
        apply_labels(PAIRS, labels)


@pytest.mark.parametrize(
    ("path", "fault"),
    [(f"/api/datasets/{LABELS}$", 503), (f"/api/datasets/{LABELS}$", "drop"), ("/tree/", 403), ("/resolve/", 403)],
)
def test_a_hub_that_does_not_answer_is_no_empty_log(hub, fault, path):
    put("labels/1.jsonl", ("0", "a", 1))
    hub.fail(".*", path, with_=fault, times=100)
    with pytest.raises(
        ConnectionError, match="The labels in the dataset 'alice/labels' could not be read from the Hub"
    ):
        next_pairs(PAIRS, LABELS)


def test_an_older_copy_is_not_taken_for_the_labels(hub):
    put("labels/1.jsonl", ("0", "a", 1))
    assert len(next_pairs(PAIRS, LABELS)) == 3
    put("labels/1.jsonl", ("0", "a", 1), ("1", "a", 1))
    hub.fail(".*", "/resolve/", with_=403, times=100)
    with pytest.raises(ConnectionError):
        next_pairs(PAIRS, LABELS)


@pytest.mark.parametrize(
    ("labels", "is_id"),
    [
        ("alice/labels", True),
        ("alice/labels-v1.5", True),
        ("./labels", False),
        ("../labels", False),
        ("/alice/labels", False),
        ("a/b/c", False),
        ("labels", False),
        ("alice/" + "x" * 300, False),
        ("alice/labels.csv", False),
        ({"alice/labels": "a"}, False),
        (None, False),
    ],
)
def test_what_is_an_id(labels, is_id):
    assert is_dataset_id(labels) == is_id

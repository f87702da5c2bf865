"""Pairs are handed out to annotators, and what they decide is on the disk, whatever happens to the process."""

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_real import LabelQueue, apply_labels, next_pairs
from trl_real.labeling.label_log import append_decision, current_records, parse_record, read_log, side_sha256


def unlabeled(n):
    return Dataset.from_list(
        [
            {"pair_id": f"{i:x}", "prompt": f"question {i}", "response_a": f"one {i}", "response_b": f"two {i}"}
            for i in range(n)
        ]
    )


@pytest.fixture
def log(tmp_path):
    return tmp_path / "project" / "labels.jsonl"


def counting(log):
    """The decisions that count."""
    return current_records(parse_record(line, "") for line in read_log(log))


def label_all(queue, annotator, label="a"):
    pairs = []
    while (task := queue.next_task(annotator)) is not None:
        queue.record(annotator, task.pair_id, label)
        pairs.append(task.pair_id)
    return pairs


def test_rounds_are_those_of_next_pairs(log):
    pairs = unlabeled(23)
    handed_out = label_all(LabelQueue(pairs, log, n=5, seed=3), "anna")
    assert handed_out == next_pairs(pairs, n=23, seed=3)["pair_id"][:]
    assert len(apply_labels(pairs, log)) == 23


def test_a_round_of_a_model_is_asked_for_with_the_labels_before_it(log, rng):
    pairs = unlabeled(40).add_column("embeddings", rng.standard_normal((40, 2, 4)).astype("float32").tolist())
    queue = LabelQueue(pairs, log, n=3, strategy="d_optimal")
    labels = {}
    while len(labels) < 12:
        expected = next_pairs(pairs, dict(labels), n=3, strategy="d_optimal")["pair_id"][:]
        for pair in expected:
            task = queue.next_task("anna")
            assert task.pair_id == pair
            labels[pair] = task.shown_first
            queue.record("anna", pair, task.shown_first)


def test_a_task_stays_until_it_is_decided(log):
    queue = LabelQueue(unlabeled(9), log)
    task = queue.next_task("anna")
    assert queue.next_task("anna") == task
    queue.record("anna", task.pair_id, "b")
    assert queue.next_task("anna") != task


def test_nobody_gets_what_another_has_before_them(log):
    queue = LabelQueue(unlabeled(9), log)
    held = [queue.next_task(f"annotator {i}").pair_id for i in range(9)]
    assert len(set(held)) == 9
    assert queue.next_task("late") is None
    queue.record("annotator 0", held[0], "a")
    assert queue.next_task("late") is None
    queue.undo("annotator 0")
    assert queue.next_task("annotator 0").pair_id == held[0]


def test_a_lease_runs_out_and_what_comes_later_still_counts(log):
    queue = LabelQueue(unlabeled(1), log, lease_seconds=0.05)
    (pair,) = {queue.next_task("slow").pair_id}
    assert queue.next_task("quick") is None
    time.sleep(0.06)
    assert queue.next_task("quick").pair_id == pair
    queue.record("quick", pair, "a")
    queue.record("slow", pair, "b")
    assert Counter(record.annotator for record in counting(log)) == {"quick": 1, "slow": 1}


@pytest.mark.parametrize("overlap", [1, 2, 3])
def test_each_pair_gets_as_many_opinions_as_overlap_says(log, overlap):
    names = ["anna", "ben", "cleo", "dan"]
    queue = LabelQueue(unlabeled(30), log, n=7, overlap=overlap)
    threads = [threading.Thread(target=label_all, args=(queue, name)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:  # somebody may have gone while others held the last pairs
        label_all(queue, name)
    records = counting(log)
    assert Counter(record.pair for record in records) == dict.fromkeys(unlabeled(30)["pair_id"], overlap)
    assert len(records) == len(list(read_log(log)))
    assert queue.progress().done == 30


def test_who_has_decided_about_the_round_gets_the_next_one(log):
    queue = LabelQueue(unlabeled(20), log, n=4, overlap=2)
    assert len(label_all(queue, "anna")) == 20
    assert queue.progress() == (20, 0, 20, {"anna": (20, 0, 0)})
    assert len(label_all(queue, "ben", "tie")) == 20
    assert queue.progress() == (20, 20, 0, {"anna": (20, 0, 0), "ben": (0, 20, 0)})


def test_sides_are_shuffled_by_annotator_and_pair_and_written_down(log):
    pairs = unlabeled(200)
    queue = LabelQueue(pairs, log, n=200, overlap=2)
    shown = {}
    for name in ("anna", "ben"):
        while (task := queue.next_task(name)) is not None:
            shown[name, task.pair_id] = task.shown_first
            queue.record(name, task.pair_id, "a", seconds=1.5)
    for line in read_log(log):
        row = pairs[int(line["pair_id"], 16)]
        assert line["shown_first"] == shown[line["annotator"], line["pair_id"]]
        assert line["response_a_sha256"] == side_sha256(row["response_a"])
        assert line["seconds"] == 1.5
    first = {name: [shown[name, pair] for pair in pairs["pair_id"]] for name in ("anna", "ben")}
    agree = sum(a == b for a, b in zip(first["anna"], first["ben"], strict=True))
    for count in (first["anna"].count("a"), first["ben"].count("a"), agree):
        assert 70 < count < 130  # of 200, four standard deviations
    again = LabelQueue(pairs, log.with_name("again.jsonl"), n=200)
    other = LabelQueue(pairs, log.with_name("other.jsonl"), n=200, seed=1)
    assert first["anna"] == [again.task("anna", pair).shown_first for pair in pairs["pair_id"]]
    assert first["anna"] != [other.task("anna", pair).shown_first for pair in pairs["pair_id"]]


def test_the_texts_decide_the_order_and_not_their_columns(log):
    pairs = unlabeled(20)
    turned = pairs.rename_columns({"response_a": "response_b", "response_b": "response_a"})
    one, two = (LabelQueue(rows, log) for rows in (pairs, turned))
    for pair in pairs["pair_id"]:
        seen = [
            task._asdict()[f"response_{task.shown_first}"]
            for task in (queue.task("anna", pair) for queue in (one, two))
        ]
        assert seen[0] == seen[1]


def test_undo_goes_back_decision_by_decision(log):
    queue = LabelQueue(unlabeled(9), log)
    tasks = []
    for label in ("a", "tie", None):
        tasks.append(queue.next_task("anna"))
        queue.record("anna", tasks[-1].pair_id, label)
    assert queue.progress().annotators["anna"] == (1, 1, 1)
    for task in reversed(tasks):
        assert queue.undo("anna") == task
        assert queue.next_task("anna") == task
        assert queue.next_task("ben") != task
    assert queue.undo("anna") is None
    assert queue.progress().annotators["anna"] == (0, 0, 0)
    assert counting(log) == []
    queue.record("anna", tasks[0].pair_id, "b")
    assert [record.label for record in counting(log)] == ["b"]


def test_the_same_request_again_is_one_decision(log):
    queue = LabelQueue(unlabeled(3), log)
    pair = queue.next_task("anna").pair_id
    for label in ("a", "a", "b", "b", "a"):
        queue.record("anna", pair, label)
    assert [line["label"] for line in read_log(log)] == ["a", "b", "a"]


def test_a_clock_that_is_set_back_changes_nothing(log):
    queue = LabelQueue(unlabeled(3), log)
    pair = queue.next_task("anna").pair_id
    future = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    append_decision(log, {"pair_id": pair, "label": "a", "annotator": "anna", "time": future})
    queue.record("anna", pair, "b")
    assert [record.label for record in counting(log)] == ["b"]
    queue.undo("anna")
    assert counting(log) == []


def test_what_others_append_is_taken_in(log):
    pairs = unlabeled(6)
    one, two = LabelQueue(pairs, log), LabelQueue(pairs, log)
    assert len(label_all(one, "anna")) == 6
    assert two.next_task("ben") is None
    assert two.undo("anna") is not None
    assert one.next_task("ben") is not None


def test_a_log_that_was_replaced_is_read_anew(log):
    queue = LabelQueue(unlabeled(6), log)
    pair = queue.next_task("anna").pair_id
    queue.record("anna", pair, "a")
    other = log.with_name("edited.jsonl")
    other.write_text("")
    os.replace(other, log)
    assert queue.progress().annotators == {}
    assert queue.next_task("anna").pair_id == pair


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from("xyz"), st.sampled_from(["a", "b", "tie", None, "undo", "restart"])), max_size=25
    ),
    st.integers(1, 3),
)
def test_any_interrupted_session_is_as_the_log_says(tmp_path_factory, steps, overlap):
    pairs, log = unlabeled(6), tmp_path_factory.mktemp("queue") / "labels.jsonl"
    queue = LabelQueue(pairs, log, n=2, overlap=overlap)
    expected = {name: [] for name in "xyz"}  # what each has decided, the last one last
    for name, step in steps:
        if step == "restart":
            queue = LabelQueue(pairs, log, n=2, overlap=overlap)
        elif step == "undo":
            task = queue.undo(name)
            assert (task is None) == (not expected[name])
            if task is not None:
                assert expected[name].pop()[0] == task.pair_id
        elif (task := queue.next_task(name)) is not None:
            assert task.pair_id not in dict(expected[name])
            assert sum(task.pair_id in dict(decided) for decided in expected.values()) < overlap
            queue.record(name, task.pair_id, step)
            expected[name].append((task.pair_id, step))
    found = {(record.annotator, record.pair): record.label for record in counting(log)}
    assert found == {(name, pair): label for name, decided in expected.items() for pair, label in decided}
    assert queue.progress().done == sum(
        sum(pair in dict(decided) for decided in expected.values()) >= overlap for pair in pairs["pair_id"]
    )


WORKER = """
    import sys
    from datasets import Dataset
    from trl_real import LabelQueue
    queue = LabelQueue(Dataset.from_json(sys.argv[1]), sys.argv[2], n=7)
    while (task := queue.next_task("anna")) is not None:
        queue.record("anna", task.pair_id, "a")
        print(task.pair_id, flush=True)
"""


@pytest.mark.slow
def test_a_kill_loses_nothing_that_was_confirmed(log, tmp_path):
    pairs = unlabeled(3000)
    pairs.to_json(tmp_path / "pairs.jsonl")
    command = [sys.executable, "-c", textwrap.dedent(WORKER), str(tmp_path / "pairs.jsonl"), str(log)]
    confirmed = []
    for n in (5, 40):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            confirmed += [process.stdout.readline().strip() for _ in range(n)]
            process.send_signal(signal.SIGKILL)
            confirmed += process.stdout.read().split()
    labeled = [record.pair for record in counting(log)]
    assert len(set(confirmed)) == len(confirmed)
    assert set(confirmed) <= set(labeled)
    assert len(labeled) <= len(confirmed) + 2  # one in flight at each kill
    LabelQueue(pairs, log).next_task("anna")


def test_a_full_disk_is_told_and_nothing_is_lost(log):
    queue = LabelQueue(unlabeled(9), log)
    tasks = [queue.next_task(name) for name in ("anna", "ben")]
    queue.record("anna", tasks[0].pair_id, "a")
    before, limit = log.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (0, 20):
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + room, limit[1]))
        try:
            with pytest.raises(OSError, match=r"File too large|could be written"):
                queue.record("ben", tasks[1].pair_id, "b")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert log.read_bytes() == before
    assert queue.next_task("ben") == tasks[1]
    queue.record("ben", tasks[1].pair_id, "b")
    assert [(record.annotator, record.label) for record in counting(log)] == [("anna", "a"), ("ben", "b")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlap": 0}, "`overlap` must be a whole number of at least 1, got 0."),
        ({"lease_seconds": -1}, "`lease_seconds` must be a number from 0 to"),
        ({"n": 0}, "`n` must be a whole number of at least 1, got 0."),
        ({"strategy": "hardest"}, "`strategy` must be one of"),
        ({"audit": 0}, "`audit` must be above 0"),
    ],
)
def test_wrong_options_are_named(log, options, message):
    with pytest.raises(ValueError, match=message):
        LabelQueue(unlabeled(3), log, **options)


def test_wrong_decisions_are_named_and_leave_no_trace(log):
    queue = LabelQueue(unlabeled(3), log)
    for arguments, message in (
        (("anna", "nowhere", "a"), "There is no pair with the `pair_id` 'nowhere'."),
        (("anna", "1", "left"), r"The label of the pair '1' must be 'a', 'b', 'tie' or None, found str \('left'\)."),
        ((" ", "1", "a"), r"`annotator` must be a name, found str \(' '\)."),
        ((None, "1", "a"), r"`annotator` must be a name, found NoneType \(None\)."),
    ):
        with pytest.raises(ValueError, match=message):
            queue.record(*arguments)
    with pytest.raises(ValueError, match="`seconds` must be a number of at least 0"):
        queue.record("anna", "1", "a", seconds=-1)
    assert log.read_bytes() == b""


def test_labels_of_other_pairs_are_refused_at_once(log):
    append = {"pair_id": "elsewhere", "label": "a", "annotator": "anna"}
    append_decision(log, append)
    with pytest.raises(ValueError, match=r"`labels` has 1 `pair_id`s that no pair has: 'elsewhere'\."):
        LabelQueue(unlabeled(3), log)
    assert json.loads(log.read_text()) == append


def test_pairs_that_were_kept_without_one_are_left_out(log):
    rows = [*unlabeled(4).to_list(), {"pair_id": None, "prompt": "p", "response_a": None, "response_b": None}]
    assert len(label_all(LabelQueue(Dataset.from_list(rows), log), "anna")) == 4

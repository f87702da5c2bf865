import errno
import fcntl
import json
import logging
import os
import re
import threading
from datetime import UTC, datetime, timedelta

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from trl_real import apply_labels
from trl_real.labeling.label_log import (
    LabelRecord,
    append_decision,
    current_records,
    is_turned,
    parse_record,
    read_log,
    side_sha256,
)


NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
PAIR = {"pair_id": "x", "prompt": "p", "response_a": "one", "response_b": "two"}


def decision(label="a", **others):
    return {"pair_id": "x", "label": label, "annotator": "anna", "time": NOON.isoformat(), **others}


def test_what_is_appended_is_read(tmp_path):
    path = tmp_path / "labels.jsonl"
    lines = [decision(label, note="caf\u00e9 \ud800\n", seconds=1.5) for label in ("a", None, "tie")]
    for line in lines:
        append_decision(path, line)
    assert list(read_log(path)) == lines
    assert len(path.read_bytes().splitlines()) == 3


@pytest.mark.parametrize("cut", range(1, len(json.dumps(decision(note=["}"]))) - 1))
def test_a_line_that_was_cut_off_spoils_no_other(tmp_path, caplog, cut):
    path = tmp_path / "labels.jsonl"
    append_decision(path, decision("a"))
    torn = json.dumps(decision("b", note=["}"]))[:cut]
    with open(path, "a", encoding="utf-8") as file:
        file.write(torn)
    if torn.endswith("}"):
        return  # as long as it is, it may be anything
    assert [line["label"] for line in read_log(path)] == ["a"]
    append_decision(path, decision("tie"))
    caplog.clear()
    with caplog.at_level(logging.WARNING, "trl_real"):
        assert [line["label"] for line in read_log(path)] == ["a", "tie"]
    assert "ignored 1 incomplete lines, as a killed process leaves them; the first is line 2." in caplog.text


def test_a_whole_line_without_an_end_counts(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps(decision("b")), encoding="utf-8")
    append_decision(path, decision("tie"))
    assert [line["label"] for line in read_log(path)] == ["b", "tie"]


def test_a_line_that_does_not_fit_is_removed_before_another_process_appends(tmp_path, monkeypatch):
    path, write = tmp_path / "labels.jsonl", os.write
    append_decision(path, decision("a"))
    before, written = path.read_bytes(), []

    def until_full(file, line):
        with open(path, "rb") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(write(file, line[: len(line) // 2]))
        return written[0]

    with monkeypatch.context() as full:
        full.setattr(os, "write", until_full)
        with pytest.raises(OSError, match="No space left on device"):
            append_decision(path, decision("b"))
    assert path.read_bytes() == before
    append_decision(path, decision("b"))
    assert [line["label"] for line in read_log(path)] == ["a", "b"]


def test_times_that_datasets_has_read_are_times(tmp_path):
    """`datasets` reads whole seconds in ISO 8601 as timestamps, without their zone."""
    lines = [decision(label, time=f"2026-01-31T12:00:0{n}Z") for n, label in enumerate("ba")]
    rows = Dataset.from_list([{**line, "time": datetime.fromisoformat(line["time"])} for line in reversed(lines)])
    (preference,) = apply_labels(Dataset.from_list([PAIR]), rows)
    assert preference["chosen"] == "one"


def test_lines_of_several_threads_do_not_mix(tmp_path):
    path = tmp_path / "labels.jsonl"

    def append(name):
        for i in range(20):
            append_decision(path, decision(annotator=name, note="x" * 500, number=i))

    threads = [threading.Thread(target=append, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [(line["annotator"], line["number"]) for line in read_log(path)]
    assert sorted(found) == [(name, i) for name in "abcd" for i in range(20)]


def test_what_is_no_decision_is_not_appended(tmp_path):
    with pytest.raises(ValueError, match="The label of the pair 'x' must be 'a', 'b', 'tie' or None"):
        append_decision(tmp_path / "labels.jsonl", decision("A"))
    assert not (tmp_path / "labels.jsonl").exists()


RECORDS = st.lists(
    st.tuples(
        st.sampled_from(["x", "y"]),
        st.sampled_from(["a", "b", "tie", None]),
        st.sampled_from(["anna", "ben"]),
        st.integers(0, 3),
        st.booleans(),
    ),
    max_size=12,
)


@given(RECORDS)
def test_the_latest_decision_counts(found):
    records = [
        LabelRecord(pair, label, name, time=NOON + timedelta(hours=hours), undone=undone)
        for pair, label, name, hours, undone in found
    ]
    expected = {}
    for n, record in enumerate(records):
        others = [
            (o.time, i) for i, o in enumerate(records) if (o.pair, o.annotator) == (record.pair, record.annotator)
        ]
        if max(others) == (record.time, n) and not record.undone:
            expected[record.pair, record.annotator] = record.label
    assert {(r.pair, r.annotator): r.label for r in current_records(records)} == expected


@pytest.mark.parametrize("times", [(None, None), (None, NOON), (NOON, None)])
def test_decisions_without_a_time_come_once(times):
    with pytest.raises(ValueError, match=re.escape("`labels` has 1 `pair_id`s more than once: 'x'.")):
        current_records([LabelRecord("x", "a", time=time) for time in times])


def test_times_are_compared_across_time_zones():
    early = parse_record(decision("a", time="2026-01-31T12:00:00+02:00"), "1")
    late = parse_record(decision("b", time="2026-01-31T11:00:00"), "2")  # UTC
    assert current_records([late, early]) == [late]
    assert parse_record(decision(time="2026-01-31T10:00:00Z"), "1").time == early.time


def said(content):
    return [{"role": "assistant", "content": content, "name": None}]


@pytest.mark.parametrize(("one", "two"), [("one", "two"), (said("one"), said("two"))])
def test_a_label_is_turned_to_the_sides_of_its_pair(one, two):
    pair = PAIR | {"response_a": one, "response_b": two}
    turned = PAIR | {"response_a": two, "response_b": one}
    for about in ({"response_a_sha256": side_sha256(one)}, {"response_a": one, "response_b": two}):
        for row in (pair, turned):
            assert apply_labels(Dataset.from_list([row]), [decision("a", **about)])["chosen"][:] == [one]
    with pytest.raises(ValueError, match="The label of the pair 'x' refers to responses that are not in the pair"):
        apply_labels(Dataset.from_list([pair]), [decision("a", response_a_sha256=side_sha256("three"))])


def test_sides_that_are_equal_are_not_turned():
    assert not is_turned(LabelRecord("x", "a", response_a_sha256=side_sha256("one")), "one", "one")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"time": 12.5}, "Label 1 of `labels`: `time` must be in ISO 8601, such as"),
        ({"time": "noon"}, "Label 1 of `labels`: `time` must be in ISO 8601, such as"),
        ({"seconds": -1}, "Label 1 of `labels`: `seconds` must be a number of at least 0, found int (-1)."),
        ({"seconds": float("nan")}, "Label 1 of `labels`: `seconds` must be a number of at least 0"),
        ({"shown_first": "left"}, "Label 1 of `labels`: `shown_first` must be 'a' or 'b', found str ('left')."),
        ({"response_a_sha256": 3}, "Label 1 of `labels`: `response_a_sha256` must be a string, found int (3)."),
    ],
)
def test_wrong_fields_are_named(wrong, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        apply_labels(Dataset.from_list([PAIR]), [decision(**wrong)])


def test_a_log_is_applied(tmp_path):
    path = tmp_path / "labels.jsonl"
    append_decision(path, decision("a"))
    append_decision(path, decision("b", time=(NOON + timedelta(minutes=1)).isoformat()))
    assert apply_labels(Dataset.from_list([PAIR]), path)["chosen"][:] == ["two"]
    append_decision(path, decision(None, undone=True, time=(NOON + timedelta(minutes=2)).isoformat()))
    assert len(apply_labels(Dataset.from_list([PAIR]), path)) == 0

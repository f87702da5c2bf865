"""What the readers of the formats refuse, count and take in other spellings."""

import json
import logging
import re

import pytest
from datasets import Dataset

from trl_real import apply_labels, to_label_tasks
from trl_real.labeling.label_log import OTHER_SIDE, LabelRecord, is_turned, side_sha256
from trl_real.labeling.plain_text import plain_text
from trl_real.labeling.sources import read_labels


PAIR = {"pair_id": "x", "prompt": "Why?", "response_a": "one", "response_b": "two"}
PAIRS = Dataset.from_list([PAIR])
TEMPLATE = {"pair_id": "x", "prompt": "Why?", "answer1": "two", "answer2": "one"}


def write(tmp_path, content):
    path = tmp_path / "labels"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def annotation(*results, **fields):
    return {"id": 1, "completed_by": 7, "result": list(results), "was_cancelled": False, **fields}


def task(*annotations, data=PAIR):
    return {"id": 3, "data": data, "annotations": list(annotations)}


def choice(*choices):
    return {"type": "choices", "from_name": "q", "to_name": "prompt", "value": {"choices": list(choices)}}


def pairwise(selected, to_name="c"):
    return {"type": "pairwise", "from_name": "c", "to_name": to_name, "value": {"selected": selected}}


def prodigy(**fields):
    options = [{"id": "a", "text": "one"}, {"id": "b", "text": "two"}, {"id": "tie", "text": "Tie"}]
    return {"text": "Why?", "options": options, "pair_id": "x", "accept": ["a"], "answer": "accept", **fields}


def argilla(*responses, **fields):
    columns = zip(*responses, strict=True) if responses else ((), (), ())
    names = ("preference.responses", "preference.responses.users", "preference.responses.status")
    return {
        "id": "x",
        "response_a": "one",
        "response_b": "two",
        **dict(zip(names, map(list, columns), strict=True)),
        **fields,
    }


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        # Label Studio: what an annotator chooses, by the type of the control
        ([task(annotation(choice("B")))], [("7", "b")]),
        ([task(annotation(choice("a"), choice("unsafe")))], [("7", "a")]),
        ([task(annotation(choice("a"), {"type": "textarea", "value": {"text": ["hm"]}}))], [("7", "a")]),
        ([task(annotation({"type": "textarea", "value": {"text": ["hm"]}}))], [("7", None)]),
        ([task(annotation(pairwise("right")))], [("7", "b")]),
        ([task(annotation(pairwise("right"), choice("unsafe")))], [("7", "b")]),
        ([task(annotation(choice("tie")))], [("7", "tie")]),
        # The left response, by the data of the task or by `toName`
        ([task(annotation(pairwise("left")), data=TEMPLATE)], [("7", "b")]),
        ([task(annotation(pairwise("left", "response_b,response_a")))], [("7", "b")]),
        ([task(annotation(pairwise("left", "response_a,response_b")))], [("7", "a")]),
        # Skips, and what a skipped annotation held before
        ([task(annotation(was_cancelled=True))], [("7", None)]),
        ([task(annotation(choice("a"), was_cancelled=True))], [("7", None)]),
        ([task(annotation())], [("7", None)]),
        ([task(), task(annotation(choice("a")))], [("7", "a")]),
        # Who it was
        ([task(annotation(choice("a"), completed_by={"id": 7, "email": "anna@example.com"}))], [("anna@example.com", "a")]),
        ([task(annotation(choice("a"), completed_by={"id": 7}))], [("7", "a")]),
        ([task(annotation(choice("a"), completed_by=None), annotation(choice("b"), completed_by=None, id=2))],
            [("annotation 1", "a"), ("annotation 2", "b")]),
        ([task(annotation(choice("a")), annotation(choice("b"), completed_by=8))], [("7", "a"), ("8", "b")]),
        # Who decided again
        (
            [task(annotation(choice("b"), updated_at="2026-01-02T00:00:00Z"), annotation(choice("a"), updated_at="2026-01-01T00:00:00Z"))],
            [("7", "b")],
        ),
        # Prodigy
        ([prodigy(_annotator_id="anna", _session_id="s")], [("anna", "a")]),
        ([prodigy(_session_id="s")], [("s", "a")]),
        ([prodigy(answer="ignore")], [("None", None)]),
        ([prodigy(answer="reject")], [("None", None)]),
        ([prodigy(accept=[])], [("None", None)]),
        ([prodigy(accept=["tie"])], [("None", "tie")]),
        ([prodigy(_timestamp=20), prodigy(accept=["b"], _timestamp=10)], [("None", "a")]),
        # Argilla
        ([argilla(("a", "u", "submitted"), ("b", "v", "submitted"))], [("u", "a"), ("v", "b")]),
        ([argilla(("a", "u", "discarded"), (None, "v", "discarded"))], [("u", None), ("v", None)]),
        ([argilla(("a", "u", "draft"))], []),
        ([argilla(**{"preference.responses": None, "preference.responses.users": None, "preference.responses.status": None})], []),
        ([{"id": "x", "_server_id": "1", "status": "pending", "response_a": "one", "response_b": "two"}], []),
    ],
)  # fmt: skip
def test_what_counts(records, expected):
    read = read_labels(records, [PAIRS])
    found = [(r.annotator, OTHER_SIDE[r.label] if is_turned(r, "one", "two") else r.label) for r in read]
    assert found == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # Label Studio
        ([task(annotation(choice("good")))], "chooses ['good'], but the choices must be 'a', 'b' and 'tie'"),
        ([task(annotation(pairwise("left"), choice("tie")))], "chooses ['a', 'tie']. Correct it in Label Studio"),
        ([task(annotation(choice("a", "b")))], "chooses ['a', 'b']. Correct it in Label Studio"),
        ([task(annotation(pairwise("middle")))], "a pairwise result selects 'left' or 'right', found str ('middle')"),
        ([task(annotation(pairwise("left")), data={"pair_id": "x"})], "it is unknown which response was on the left"),
        ([task(), task(annotation(choice("a")), data={"response_a": "one"})], "record 2 of"),
        ([task(annotation(choice("a")), data={"prompt": "Why?"})], "expected a `pair_id`, found NoneType (None)"),
        ([{"data": PAIR}], "expected a task with `data` and a list of `annotations`"),
        ([task(7)], "(read as Label Studio), annotation 1: expected an annotation with a list `result`, found int (7)"),
        ([{**PAIR, "label": "a", "annotation_id": 1, "lead_time": 2.0}], "this is the format JSON_MIN or CSV of Label Studio"),
        ("pair_id,label,annotation_id,lead_time\nx,a,1,2.0\n", "this is the format JSON_MIN or CSV of Label Studio"),
        # Argilla
        ([argilla(("good", "u", "submitted"))], "expected 'a', 'b', 'tie' or nothing, found str ('good')"),
        ([argilla(("a", "u", "lost"))], "must be 'submitted', 'discarded' or 'draft', found str ('lost')"),
        ([argilla(("a", "u", None))], "must be 'submitted', 'discarded' or 'draft', found NoneType (None)"),
        ([argilla(("a", "u", "submitted"), **{"preference.responses.users": []})], "has 1 responses, 0 users and 1 statuses"),
        ([argilla(("a", "u", "submitted"), **{"preference.responses.status": "x"})], "expected a list in `preference.responses.status`"),
        ([{"id": "x", "p.responses": [], "q.responses": []}], "expected the responses to one question, found ['p.responses', 'q.responses']"),
        ([{"id": "x", "responses": {"preference": []}}], "this is the nested export of Argilla"),
        # Prodigy
        ([{key: value for key, value in prodigy().items() if key != "answer"}], "Export the answers with `prodigy db-out`"),
        ([prodigy(accept=["a", "b"])], "expected at most one choice in `accept`"),
        ([prodigy(accept=["c"])], "expected 'a', 'b', 'tie' or nothing, found str ('c')"),
        ([prodigy(_timestamp="noon")], "`_timestamp` must be in seconds since 1970, found str ('noon')"),
        # CSV
        ("pair_id,label\nx,left\n", "Label of row 2 of"),
        ("pair_id,label\nx,left\n", "expected 'a', 'b', 'tie' or nothing, found str ('left')"),
        ("pair_id,label\n,a\n", "expected a `pair_id`, found NoneType (None)"),
        ("pair_id,label\nx,a,b\n", "row 2: found 3 cells, but there are 2 columns"),
        ('pair_id,label\nx,"a\n', "this is not CSV: unexpected end of data"),
        ("pair_id,prompt\nx,a\n", "expected a CSV file with one column `label`, found the columns ['pair_id', 'prompt']"),
        ("pair_id,label,label\nx,a,b\n", "expected a CSV file with one column `label`"),
        ("pair_id,label\ny,a\n", "`labels` has 1 `pair_id`s that no pair has: 'y'."),
        ("pair_id,label\nx,a\nx,b\n", "If several people labeled, set `annotator`"),
        (b"pair_id,label\nx,\xff\n", "is not UTF-8"),
        ("id,label\nx,a\n", "expected JSON, or CSV with the columns `pair_id` and `label`, found 'id,label"),
        # JSON
        ('[{"data": {}', "is not valid JSON"),
        ('[{"pair_id": "x", "label": "a"}, 3]', "record 2: expected an object, found int (3)"),
        ('[{"pair_id": "x"}]', "None of the 1 records of `labels` has a `label`"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(content, message, tmp_path):
    path = write(tmp_path, content if isinstance(content, str | bytes) else json.dumps(content))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        apply_labels(PAIRS, path)
    assert str(path) in str(error.value) or "`labels`" in str(error.value)


def test_drafts_are_counted(caplog):
    with caplog.at_level(logging.WARNING):
        apply_labels(PAIRS, [argilla(("a", "u", "draft"), ("b", "v", "draft"), ("b", "w", "submitted"))])
    assert "2 responses in Argilla are drafts." in caplog.text


@pytest.mark.parametrize(
    ("content", "label"),
    [
        ("pair_id,label\nx,B\n", "b"),
        ("\ufeffpair_id;label;annotator\r\nx;Tie;anna\r\n", "tie"),
        ("Label\tPair_ID\n a \tx\n", "a"),
        ("pair_id,label\n\nx,a\n\n", "a"),
        ('[{"pair_id": "x", "label": "b"}]', "b"),
        ('\ufeff{"pair_id": "x", "label": "b"}\n', "b"),
    ],
)
def test_other_spellings_of_a_file(content, label, tmp_path):
    assert [record.label for record in read_labels(write(tmp_path, content), [PAIRS])] == [label]


def test_rows_without_a_label_and_an_annotator_are_not_labeled_yet(tmp_path):
    path = write(tmp_path, "pair_id,label,annotator\nx,,\nx,,anna\nx,a,ben\n")
    assert [(r.annotator, r.label) for r in read_labels(path, [PAIRS])] == [("anna", None), ("ben", "a")]


@pytest.mark.parametrize(
    ("text", "became"), [("1/2", "02.01.2026"), ("007", "7"), ("true", "TRUE"), ("12345678901234567890", "1.23E+19")]
)
def test_texts_that_a_spreadsheet_has_reformatted(text, became, tmp_path):
    """The label still counts, and the hash says for which response."""
    row = f"pair_id,label,response_a,response_b,response_a_sha256\nx,a,{became},two,{side_sha256(text)}\n"
    for names in (("response_a", "response_b"), ("response_b", "response_a")):
        pair = {"pair_id": "x", "prompt": "Why?", names[0]: text, names[1]: "two"}
        assert apply_labels(Dataset.from_list([pair]), write(tmp_path, row))["chosen"][:] == [text]


def test_texts_that_a_spreadsheet_has_cut_off_or_reflowed():
    long = "words and\r\nmore words " * 3000
    record = LabelRecord("x", "a", sides=(long.replace("\r\n", "\n")[:32767], "two"))
    assert not is_turned(record, long, "two")
    assert is_turned(record, "two", long)


def test_responses_that_look_alike_are_told_apart_by_the_hash():
    one, two = [{"role": "assistant", "content": "yes"}], [{"role": "tool", "content": "yes"}]
    record = LabelRecord("x", "a", sides=("yes", "yes"), response_a_sha256=side_sha256(one))
    assert not is_turned(record, one, two)
    assert is_turned(record, two, one)
    with pytest.raises(ValueError, match="'yes' and 'yes', which look like either of them"):
        is_turned(record._replace(response_a_sha256=None), one, two)


def test_messages_as_plain_text():
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Why?\x00"}]},
    ]
    assert plain_text(talk) == "System: Be brief.\n\nUser: Why?"
    assert plain_text(talk[1:]) == "Why?"
    assert plain_text("a\x07b\tc\n") == "ab\tc\n"


def test_a_cell_may_hold_a_very_long_response(tmp_path):
    rows = Dataset.from_list([PAIR | {"response_a": "word " * 50_000}])
    to_label_tasks(rows, tmp_path / "tasks.csv", format="csv")
    text = (tmp_path / "tasks.csv").read_text(encoding="utf-8-sig")
    (tmp_path / "tasks.csv").write_text(text.replace(",two,,", ",two,b,"), encoding="utf-8-sig")
    assert apply_labels(rows, tmp_path / "tasks.csv")["chosen"][:] == ["two"]

"""Columns of any type that `datasets` can load are read the same, or refused by name."""

import decimal
import json

import pytest
from datasets import Dataset, Json, LargeList, List, Value, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_real import SelectionConfig, real_select, select_preferences, to_candidates


def said(role, content, **keys):
    return {"role": role, "content": content, **keys}


def without_nulls(value):
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def selected(dataset):
    """The pairs of each entrance: reading and selecting, selecting alone, and the whole flow, of a stream as well."""
    options = {"batched": True, "fn_kwargs": {"strategy": "random"}}
    yield dataset.map(real_select, **options).to_list()
    yield to_candidates(dataset).map(real_select, **options).to_list()
    yield select_preferences(dataset, SelectionConfig(strategy="random"))[0].to_list()
    yield list(to_candidates(dataset.to_iterable_dataset()).map(real_select, **options))


def check(dataset, expected):
    for pairs in selected(dataset):
        found = [{name: without_nulls(row[name]) for name in expected[0]} for row in pairs]
        assert found == without_nulls(expected)


PARTS = st.sampled_from(["hi", "Tea?", "7 o'clock", "a\nb"]).map(lambda text: [{"type": "text", "text": text}])
CONTENTS = st.one_of(st.sampled_from(["hi", "Tea, please", "{open", "\u00e9"]), PARTS)
KEYS = st.sampled_from([{}, {"tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}, {"reasoning_content": "r"},
                        {"tool_calls": [{"function": {"name": "f", "arguments": {"x": "1", "y": [2]}}}]}])  # fmt: skip


@st.composite
def rows_of_messages(draw):
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        prompt = [said("system", draw(CONTENTS)), said("user", draw(CONTENTS))]
        answers = [[said("assistant", draw(CONTENTS), **draw(KEYS))], [said("assistant", "another one", **draw(KEYS))]]
        rows.append({"prompt": prompt, "chosen": answers[0], "rejected": answers[1]})
    return rows


@given(rows=rows_of_messages(), layout=st.sampled_from(["pairs", "whole", "candidates"]))
@settings(max_examples=25)
def test_messages_of_any_form_come_out_as_they_went_in(rows, layout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("json")
    given_rows = [
        {
            "pairs": row,
            "whole": {side: row["prompt"] + row[side] for side in ("chosen", "rejected")},
            "candidates": {
                "prompt": row["prompt"],
                "responses": [row["chosen"], row["rejected"]],
                "scores": [1, 0],
            },
        }[layout]
        for row in rows
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, given_rows)))
    dataset = load_dataset("json", data_files=str(folder / "rows.jsonl"), split="train", cache_dir=str(folder))
    check(dataset, rows)


def test_prompts_of_which_some_are_text_and_some_messages():
    rows = {"prompt": ["p", [said("user", "q")]], "responses": [["a", "b"]] * 2, "scores": [[0, 1]] * 2}
    dataset = Dataset.from_dict(rows, on_mixed_types="use_json")
    assert isinstance(dataset.features["prompt"], Json)
    answers = {"chosen": [said("assistant", "b")], "rejected": [said("assistant", "a")]}
    check(dataset, [{"prompt": [said("user", text)], **answers} for text in "pq"])


def test_texts_beside_messages_are_refused_by_name():
    rows = {"prompt": ["p"], "responses": [["a", [said("assistant", "b")]]]}
    dataset = Dataset.from_dict(rows, on_mixed_types="use_json")
    message = r"Column `responses`, row 0 of the batch: expected text or messages, not both.* Convert text to messages"
    with pytest.raises(TypeError, match=message):
        to_candidates(dataset)
    with pytest.raises(TypeError, match=message):
        dataset.map(real_select, batched=True)
    with pytest.raises(TypeError, match=message):
        select_preferences(dataset)


@pytest.mark.parametrize("feature", ["string", "large_string"])
@pytest.mark.parametrize("lists", [List, LargeList, lambda item: List(item, length=2)])
@pytest.mark.parametrize("score", ["bool", "int8", "uint16", "float16", "float32", "decimal128(9, 2)"])
def test_lists_and_numbers_of_any_type(feature, lists, score):
    number = {"bool": bool, "decimal128(9, 2)": decimal.Decimal}.get(score, int)
    rows = {
        "prompt": ["p", "q"],
        "responses": [["a", "b"], ["c", "d"]],
        "scores": [[number(0), number(1)], [number(1), number(0)]],
    }
    dataset = Dataset.from_dict(rows)
    dataset = dataset.cast_column("prompt", Value(feature)).cast_column("responses", lists(Value(feature)))
    dataset = dataset.cast_column("scores", lists(Value(score)))
    expected = [{"prompt": "p", "chosen": "b", "rejected": "a"}, {"prompt": "q", "chosen": "c", "rejected": "d"}]
    check(dataset, [{**row, "score_chosen": 1.0, "score_rejected": 0.0} for row in expected])

import math
import re

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from trl_real import real_select
from trl_real.candidates import SKIP_REASONS, eligible_responses, read_candidates, response_text, split_prompt


def eligible(responses, scores=None, prompt="p", gap=0.0):
    batch = {"prompt": [prompt], "responses": [responses]} | ({} if scores is None else {"scores": [scores]})
    (row,) = eligible_responses(read_candidates(batch, "test"), gap)
    return row.positions, row.scores, row.reason


def test_equal_responses_merge_into_the_first_in_code_point_order_with_the_mean_score():
    # "é" as one code point and as two, and with white space around it; inner white space is meaning.
    responses = ["b", "caf\u00e9", " cafe\u0301 ", "cafe\u0301", "a  x", "a x"]
    positions, scores, reason = eligible(responses, [1.0, 4.0, 5.0, 9.0, 2.0, 3.0])
    assert [responses[p] for p in positions] == [" cafe\u0301 ", "a  x", "a x", "b"]
    assert scores == [6.0, 2.0, 3.0, 1.0]
    assert reason is None


def test_responses_without_a_score_are_left_out_and_do_not_enter_a_mean():
    positions, scores, _ = eligible(["a", "a ", "b", "c", "d"], [3.0, None, math.nan, 1.0, 2.0])
    assert (positions, scores) == ([0, 3, 4], [3.0, 1.0, 2.0])


@pytest.mark.parametrize(
    ("responses", "scores", "reason"),
    [
        (None, None, "too_few_responses"),
        ([], None, "too_few_responses"),
        (["a"], None, "too_few_responses"),
        (["a", "", None, " \n"], None, "too_few_responses"),
        (["a", "a", " a"], None, "duplicate_responses"),
        (["a", "a", " a"], [1, 2, 3], "duplicate_responses"),
        (["a", "b"], None, None),
        (["a", "b"], [math.nan, math.nan], "missing_scores"),
        (["a", "b", "c"], [1, None, None], "missing_scores"),
        (["a", "b", "c"], [1, 1, 1], "tied_scores"),
        (["a", "b"], [math.inf, math.inf], "tied_scores"),
        (["a", "b"], [math.inf, 1], None),
    ],
)  # fmt: skip
def test_reasons(responses, scores, reason):
    assert eligible(responses, scores)[2] == reason
    assert reason is None or reason in SKIP_REASONS


def test_scores_that_are_null_for_the_row():
    batch = {"prompt": ["p"], "responses": [["a", "b"]], "scores": [None]}
    assert eligible_responses(read_candidates(batch, "test"), 0.0)[0].reason == "missing_scores"


def test_the_gap_is_strict():
    assert eligible(["a", "b"], [1.0, 1.5], gap=0.5)[2] == "tied_scores"
    assert eligible(["a", "b"], [1.0, 1.6], gap=0.5)[2] is None


def test_missing_prompt():
    assert eligible(["a", "b"], prompt=None)[2] == "missing_prompt"


def test_text_of_messages():
    call = {"name": "f", "arguments": {"x": 1}}
    assert response_text([{"role": "assistant", "content": "Hi"}]) == "Hi"
    assert response_text(
        [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "2"},
            {"role": "assistant", "content": [{"type": "text", "text": "It is "}, {"type": "text", "text": "2."}]},
        ]
    ) == '[{"arguments": {"x": 1}, "name": "f"}]\n2\nIt is 2.'  # fmt: skip


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "responses"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is", [" blue.", " green."]),
        ("Q: x\n\nA: yes", "Q: x\n\nA: yes indeed", "Q: x\n\nA:", [" yes", " yes indeed"]),
        ("The cat sat", "The cats ran", "The", [" cat sat", " cats ran"]),
        ("same words", "same words", "same", [" words", " words"]),
        ("a", "b", "", ["a", "b"]),
        ("", "b", "", ["", "b"]),
        (None, "b", None, [None, "b"]),
    ],
)
def test_implicit_prompts(chosen, rejected, prompt, responses):
    assert split_prompt(chosen, rejected) == (prompt, responses)


def test_implicit_prompt_of_messages_leaves_a_message_to_each_side():
    user, hello, more = ({"role": r, "content": c} for r, c in (("user", "u"), ("assistant", "h"), ("user", "m")))
    assert split_prompt([user, hello], [user, more]) == ([user], [[hello], [more]])
    # One side is how the other begins.
    assert split_prompt([user, hello], [user, hello, more]) == ([user], [[hello], [hello, more]])


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ({"instruction": ["p"], "completions": [["a", "b"]]}, ValueError,
         "test expects the columns `prompt` and `responses` (and `scores`, if there are any), or `chosen` and `rejected` "
         "(and `prompt`). Found: ['completions', 'instruction']. Rename yours"),
        ({"responses": [["a", "b"]]}, ValueError, "Found: ['responses']"),
        ({"prompt": [3], "responses": [["a", "b"]]}, TypeError,
         "Column `prompt`, row 0 of the batch: expected str or a list of messages, found int (3)."),
        ({"prompt": ["p", "q"], "responses": [["a", "b"], "ab"]}, TypeError,
         "Column `responses`, row 1 of the batch: expected a list, one item a response, found str ('ab')."),
        ({"prompt": ["p"], "responses": [["a", 3]]}, TypeError,
         "Column `responses`, row 0 of the batch: expected a response as str or as a list of messages [{'role': ..., "
         "'content': ...}], found int (3)."),
        ({"prompt": ["p"], "responses": [["a", {"role": "assistant", "content": "b"}]]}, TypeError, "found dict"),
        ({"prompt": ["p"], "responses": [["a", "b"]], "scores": [[1, 2, 3]]}, ValueError,
         "Column `scores`, row 0 of the batch: found 3 scores for 2 responses. Give one score a response, None where it "
         "is missing."),
        ({"prompt": ["p"], "responses": [["a", "b"]], "scores": [["1", 2]]}, TypeError,
         "Column `scores`, row 0 of the batch: expected numbers or None, found str ('1')."),
        ({"prompt": ["p"], "responses": [["a", "b"]], "scores": [[True, 2]]}, TypeError, "found bool (True)"),
        ({"prompt": ["p"], "responses": [["a", "b"]], "scores": [0.5]}, TypeError, "found float (0.5)"),
        ({"prompt": ["p"], "chosen": ["a"], "rejected": [4]}, TypeError, "Column `rejected`, row 0 of the batch"),
        ({"prompt": "p", "responses": ["a", "b"]}, ValueError,
         "test takes a batch, got a single row. Call `dataset.map(test, batched=True)`."),
        ({"prompt": ["p", "q"], "responses": [["a", "b"]]}, ValueError,
         "The columns of a batch must have the same length, found {'prompt': 2, 'responses': 1}."),
        (pa.table({"prompt": ["p"]}), TypeError, "test takes a batch as a dict of columns, got Table."),
        *(({"prompt": ["p"], "responses": [[[{"role": "assistant", "content": content}], "b"]]}, TypeError,
           "Column `responses`, row 0 of the batch: expected a response as str or as a list of messages")
          for content in (5, {"a": 1}, ["s"], [{"type": "text", "text": 3}])),
        ({"chosen": [3], "rejected": ["a"]}, TypeError, "Column `chosen`, row 0 of the batch"),
    ],
)  # fmt: skip
def test_wrong_input_is_named(batch, error, message):
    with pytest.raises(error, match=re.escape(message)):
        read_candidates(batch, "test")


def test_a_map_that_is_not_batched():
    data = Dataset.from_list([{"prompt": "p", "responses": ["a", "b"]}])
    for dataset in (data, data.to_iterable_dataset()):
        with pytest.raises(ValueError, match=re.escape("Call `dataset.map(real_select, batched=True)`.")):
            list(dataset.map(real_select))


def test_numpy_rows_are_read():
    batch = {
        "prompt": np.array(["p"], dtype=object),
        "responses": [np.array(["a", "b"])],
        "scores": np.array([[1.0, 2.0]]),
    }
    candidates = read_candidates(batch, "test")
    assert (candidates.responses, candidates.scores) == ([["a", "b"]], [[1.0, 2.0]])

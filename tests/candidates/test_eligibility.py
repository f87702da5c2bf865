import math
import unicodedata
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_real.candidates.batch import read_rows
from trl_real.candidates.eligibility import SKIP_REASONS, check_gap, find_eligible


def eligible(responses, scores=None, prompt="p", gap=0.0):
    batch = {"prompt": [prompt], "responses": [responses]} | ({} if scores is None else {"scores": [scores]})
    found = find_eligible(read_rows(batch, "test"), gap)
    assert found.counts.tolist() == [len(found.positions)]
    return found.positions.tolist(), None if found.scores is None else found.scores.tolist(), found.reasons[0]


def test_equal_responses_merge_into_the_first_in_code_point_order_with_the_mean_score():
    # "é" as one code point and as two, and with white space around it; inner white space is meaning.
    responses = ["b", "caf\u00e9", " cafe\u0301 ", "cafe\u0301", "a  x", "a x"]
    positions, scores, reason = eligible(responses, [1.0, 4.0, 5.0, 9.0, 2.0, 3.0])
    assert [responses[p] for p in positions] == [" cafe\u0301 ", "a  x", "a x", "b"]
    assert scores == [6.0, 2.0, 3.0, 1.0]
    assert reason is None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"content": "x", "reasoning_content": "a"}, {"content": "x", "reasoning_content": "b"}),
        ({"content": "x", "reasoning_content": "a"}, {"content": "x"}),
        ({"content": "x", "thinking": "a"}, {"content": "x", "thinking": "b"}),
        ({"content": "x", "tool_calls": [{"name": "f"}]}, {"content": "x", "tool_calls": [{"name": "g"}]}),
        ({"content": None, "function_call": {"name": "f"}}, {"content": None, "function_call": {"name": "g"}}),
        ({"content": [{"type": "image", "image": b"1"}]}, {"content": [{"type": "image", "image": b"2"}]}),
        ({"content": [{"type": "text", "text": "x"}, {"type": "image", "image": b"1"}]}, {"content": "x"}),
    ],
)
def test_what_a_model_would_be_trained_on_is_compared(first, second):
    first, second = ([{"role": "assistant", **message}] for message in (first, second))
    assert eligible([first, second], [1.0, 0.0])[2] is None
    again = [{**first[0], "tool_call_id": None}]  # as Arrow adds keys
    assert eligible([first, again], [1.0, 0.0])[2] == "duplicate_responses"
    pair = {"prompt": ["p"] * 2, "chosen": [first, first], "rejected": [second, again]}
    assert find_eligible(read_rows(pair, "test"), 0.0).reasons == [None, "duplicate_responses"]


def test_responses_without_a_score_are_left_out_and_do_not_enter_a_mean():
    positions, scores, _ = eligible(["a", "a ", "b", "c", "d"], [3.0, None, math.nan, 1.0, 2.0])
    assert (positions, scores) == ([0, 3, 4], [3.0, 1.0, 2.0])


@pytest.mark.parametrize(
    "scores", [[True, False], [Decimal("2.5"), 1], [np.float32(2.5), np.int8(1)], [np.True_, np.False_]]
)
def test_any_number_is_a_score(scores):
    assert eligible(["a", "b"], scores) == ([0, 1], [float(score) for score in scores], None)


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
    assert find_eligible(read_rows(batch, "test"), 0.0).reasons == ["missing_scores"]


def test_the_gap_is_strict():
    assert eligible(["a", "b"], [1.0, 1.5], gap=0.5)[2] == "tied_scores"
    assert eligible(["a", "b"], [1.0, 1.6], gap=0.5)[2] is None


SIDES = st.sampled_from(["a", "a ", "b", "\u00e9", "e\u0301", "", " \n", None])
SCORES = st.sampled_from([None, math.nan, math.inf, 0, 1, 1.5, True, Decimal("1.5"), np.float32(2)])


@given(st.lists(st.tuples(SIDES, SIDES, SCORES, SCORES), min_size=1), st.sampled_from([0.0, 0.5]), st.booleans())
def test_given_pairs_are_judged_as_candidates_are(pairs, gap, scored):
    chosen, rejected, *scores = (list(values) for values in zip(*pairs, strict=True))
    batch = {"prompt": ["p"] * len(pairs), "chosen": chosen, "rejected": rejected}
    if scored:
        batch |= dict(zip(("score_chosen", "score_rejected"), scores, strict=True))
    found = find_eligible(read_rows(batch, "test"), gap if scored else 0.0)
    n_reversed = 0
    for reason, (*sides, a, b) in zip(found.reasons, pairs, strict=True):
        texts = [unicodedata.normalize("NFC", (side or "").strip()) for side in sides]
        a, b = (math.nan if score is None or not scored else float(score) for score in (a, b))
        if None in sides:
            assert reason == "missing_response"
        elif "" in texts:
            assert reason == "too_few_responses"
        elif texts[0] == texts[1]:
            assert reason == "duplicate_responses"
        elif not scored or math.isnan(a) or math.isnan(b):
            assert reason == ("missing_scores" if gap and scored else None)
        else:
            assert reason == (None if a != b and abs(a - b) > gap else "tied_scores")
            n_reversed += reason is None and a < b
    assert found.policies["reversed_scores"] == n_reversed


def test_a_gap_between_given_pairs_needs_scores():
    check_gap(0.0, ["prompt", "chosen", "rejected"])
    check_gap(0.5, ["prompt", "chosen", "rejected", "score_chosen", "score_rejected"])
    check_gap(0.5, ["prompt", "responses"])
    with pytest.raises(ValueError, match=r"`min_score_gap=0.5` needs the columns `score_chosen` and `score_rejected`"):
        check_gap(0.5, ["prompt", "chosen", "rejected", "responses", "scores", "chosen_rating"])


def test_missing_prompt():
    assert eligible(["a", "b"], prompt=None)[2] == "missing_prompt"

import math

import pytest

from trl_real.candidates.batch import read_rows
from trl_real.candidates.eligibility import SKIP_REASONS, find_eligible


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
    assert find_eligible(read_rows(batch, "test"), 0.0).reasons == ["missing_scores"]


def test_the_gap_is_strict():
    assert eligible(["a", "b"], [1.0, 1.5], gap=0.5)[2] == "tied_scores"
    assert eligible(["a", "b"], [1.0, 1.6], gap=0.5)[2] is None


def test_missing_prompt():
    assert eligible(["a", "b"], prompt=None)[2] == "missing_prompt"

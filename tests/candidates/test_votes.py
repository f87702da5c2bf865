import re

import pytest
from datasets import Dataset, IterableDataset
from hypothesis import given
from hypothesis import strategies as st

from trl_real import SelectionConfig, select_preferences, to_candidates
from trl_real.candidates.votes import STEMS, SUFFIXES


def said(role, content):
    return [{"role": role, "content": content}]


def pku(better, safer=0):
    """As in PKU-SafeRLHF."""
    return {
        "prompt": "p",
        "response_0": "a",
        "response_1": "b",
        "is_response_0_safe": True,
        "better_response_id": better,
        "safer_response_id": safer,
    }


def arena(winner, a="a", b="b"):
    """As in Chatbot Arena conversations."""
    talks = {
        f"conversation_{side}": said("user", "q") + said("assistant", text) for side, text in (("a", a), ("b", b))
    }
    return {"question_id": "1", "model_a": "m", "model_b": "n", "winner": winner, **talks, "turn": 1}


def helpsteer3(preference):
    return {
        "domain": "general",
        "context": said("user", "q"),
        "response1": "a",
        "response2": "b",
        "overall_preference": preference,
        "individual_preference": [{"score": preference, "reasoning": "..."}],
    }


def webgpt(score):
    question = {"dataset": "eli5", "id": "1", "full_text": "q"}
    quotes = {"title": ["t"], "extract": ["e"]}
    answers = {"answer_0": "a", "answer_1": "b", "quotes_0": quotes, "quotes_1": quotes}
    return {"question": question, **answers, "score_0": score, "score_1": None if score is None else -score}


def summaries(choice):
    """As in OpenAI's Summarize from Feedback."""
    two = [{"text": text, "policy": "sup", "note": None} for text in "ab"]
    info = {"id": "1", "post": "q", "title": "t", "subreddit": "r", "article": None}
    return {"info": info, "summaries": two, "choice": choice, "worker": "w"}


@pytest.mark.parametrize("streaming", ["no", "yes", "without features"])
@pytest.mark.parametrize(
    ("layout", "make", "left", "right", "ties"),
    [
        ("votes", pku, [0], [1], []),
        ("votes", arena, ["model_a", "A", "[[A]]"], ["model_b", "b"], ["tie", "tie (bothbad)", "both_bad", "Tie"]),
        ("helpsteer3", helpsteer3, [-3, -1], [1, 2], [0]),
        ("webgpt", webgpt, [0.5, 1.0], [-0.25], [0.0]),
        ("summaries", summaries, [0], [1], []),
    ],
)
def test_published_votes(layout, make, left, right, ties, streaming):
    rows = [make(value) for value in (*left, *right, *ties, None)]
    dataset = Dataset.from_list(rows)
    if streaming == "yes":
        dataset = dataset.to_iterable_dataset()
    if streaming == "without features":
        dataset = IterableDataset.from_generator(lambda: iter(rows))
    found = list(to_candidates(dataset, on_skip="keep"))
    sides = [(text(row["chosen"]), text(row["rejected"])) for row in found]
    undecided = [(None, None)] * (len(ties) + 1)
    assert sides == [("a", "b")] * len(left) + [("b", "a")] * len(right) + undecided
    reasons = [None] * (len(left) + len(right)) + ["tied_labels"] * len(ties) + ["missing_label"]
    assert [row["skip_reason"] for row in found] == reasons
    assert {text(row["prompt"]) for row in found if row["chosen"] is not None} <= {"q", "p"}
    kept = list(to_candidates(dataset, layout=layout))
    assert len(kept) == len(left) + len(right)


def text(value):
    return value[0]["content"] if isinstance(value, list) else value


def test_a_column_for_each_winner():
    """As in the Arena preferences with a column for each outcome."""
    rows = [
        {
            "prompt": "p",
            "response_a": "a",
            "response_b": "b",
            "winner_model_a": a,
            "winner_model_b": b,
            "winner_tie": t,
        }
        for a, b, t in ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    found = to_candidates(Dataset.from_list(rows), on_skip="keep")
    assert found["chosen"][:] == ["a", "b", None]
    assert found["skip_reason"][:] == [None, None, "tied_labels"]


def test_votes_are_counted_in_the_report():
    rows = Dataset.from_list([arena(winner) for winner in ("model_b", "tie", "tie (bothbad)", None)])
    pairs, report = select_preferences(rows, SelectionConfig(strategy="random"))
    assert report.skipped == {"tied_labels": 2, "missing_label": 1}
    assert (report.layout, report.labeled, len(pairs)) == ("votes", True, 1)
    grouped = to_candidates(Dataset.from_list([arena("A"), arena("A", a="c"), arena("B")]), group=True)
    assert [text(response) for response in grouped[0]["responses"]] == ["a", "b", "c"]
    assert grouped[0]["scores"] == [1.0, 1.0, 1.0]


@given(st.sampled_from(SUFFIXES), st.sampled_from(STEMS), st.sampled_from(["left", "right", "tie"]), st.booleans())
def test_any_pair_of_columns_with_a_word_or_its_own_name(endings, stem, side, streaming):
    columns = [stem + ending for ending in endings]
    value = dict(zip(("left", "right"), columns, strict=True)).get(side, side)
    rows = Dataset.from_list([{"prompt": "p", columns[0]: "a", columns[1]: "b", "winner": value}])
    (row,) = to_candidates(rows.to_iterable_dataset() if streaming else rows, on_skip="keep")
    assert (row["chosen"], row["rejected"]) == {"left": ("a", "b"), "right": ("b", "a"), "tie": (None, None)}[side]
    (word,) = to_candidates(rows.map(lambda _: {"winner": side}), on_skip="keep")
    assert word == row


@pytest.mark.parametrize("value", [0, 1, True, 2, -1, "gpt-4", "yes", "model_c", "a_1"])
def test_what_is_in_doubt_is_named_by_the_user(value):
    row = {"prompt": "p", "response_a": "a", "response_b": "b", "label": value}
    for dataset in (Dataset.from_list([row]), Dataset.from_list([row]).to_iterable_dataset()):
        with pytest.raises(
            ValueError, match=r"Column `label`, row 0 of the batch: found .* Pass the meaning of each value: `votes="
        ):
            list(to_candidates(dataset))
        (found,) = to_candidates(dataset, votes={value: "right"})
        assert (found["chosen"], found["rejected"]) == ("b", "a")
        (found,) = to_candidates(dataset, votes={str(value): "left"})  # as JSON has it
        assert (found["chosen"], found["rejected"]) == ("a", "b")


def test_columns_with_other_names():
    row = {"task": "p", "one": "a", "two": "b", "by": "two"}
    named = {"prompt_column": "task", "left_column": "one", "right_column": "two", "vote_column": "by"}
    assert to_candidates(Dataset.from_list([row]), **named)[:] == {"prompt": ["p"], "chosen": ["b"], "rejected": ["a"]}


def test_other_votes_are_named(caplog):
    assert to_candidates(Dataset.from_list([pku(1, safer=0)]))[0]["chosen"] == "b"
    assert (
        "The vote is read from the column `better_response_id`, but ['safer_response_id'] may also be votes."
        in caplog.text
    )
    assert to_candidates(Dataset.from_list([pku(1, safer=0)]), vote_column="safer_response_id")[0]["chosen"] == "a"


@pytest.mark.parametrize(
    ("row", "options", "error", "message"),
    [
        (pku(0), {"votes": {"0": "first"}}, ValueError, "`votes` must map each value to one of ['left', 'right', 'tie']"),
        (summaries(0) | {"summaries": [{"text": "a"}]}, {}, ValueError,
         "Column `summaries`, row 0 of the batch: expected a list of two responses"),
        (webgpt(1.0) | {"score_1": "low"}, {}, TypeError, "Column `score_1`, row 0 of the batch: expected a number or None"),
    ],
)  # fmt: skip
def test_wrong_input_is_named(row, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        to_candidates(Dataset.from_list([row]), **options)

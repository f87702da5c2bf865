"""A judge behind a URL: every pair in both orders, and nothing made up where it does not answer."""

import itertools
import re

import pytest
from datasets import Dataset

from trl_real import real_select, score_responses
from trl_real.sampling.judge import verdict


CANDIDATES = Dataset.from_dict(
    {
        "prompt": [f"question {i}" for i in range(4)],
        "responses": [["a", "bb", "ccc"], ["dddd", "e"], ["same", "same", "longer one"], ["only"]],
    }
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def shown(body):
    question = body["messages"][-1]["content"]
    return re.findall(r"<response_[AB]>\n(.*?)\n</response_[AB]>", question, re.S)


def longer(body):
    first, second = shown(body)
    return "A" if len(first) > len(second) else "B"


def test_scores_are_shares_of_pairs_won(chat):
    chat.answer = longer
    scored = score_responses(CANDIDATES, "judge", base_url=chat.url)
    assert scored["scores"][:] == [[0, 0.5, 1], [1, 0], [0.25, 0.25, 1], [None]]
    asked = [tuple(shown(body)) for _, body, _ in chat.requests]
    # Both orders, equal texts not at all.
    pairs = [pair for row in CANDIDATES["responses"] for pair in itertools.permutations(dict.fromkeys(row), 2)]
    assert sorted(asked) == sorted(pairs)
    assert all(body["temperature"] == 0 and body["max_tokens"] <= 16 for _, body, _ in chat.requests)
    score_responses(CANDIDATES, "judge", base_url=chat.url)
    assert len(chat.requests) == len(asked)
    score_responses(CANDIDATES, "judge", base_url=chat.url, criteria="shorter")
    assert len(chat.requests) == 2 * len(asked)
    assert "Which one is shorter?" in chat.requests[-1][1]["messages"][0]["content"]


def test_scores_do_not_depend_on_the_order_of_responses(chat, rng):
    chat.answer = lambda body: "AB"[sum(map(ord, "".join(shown(body)))) % 2]  # does depend on the texts alone
    rows = [[f"text {i} {j}" * int(rng.integers(1, 4)) for j in range(4)] for i in range(5)]
    data = Dataset.from_dict({"prompt": list("abcde"), "responses": rows})
    turned = Dataset.from_dict({"prompt": list("abcde"), "responses": [row[::-1] for row in rows]})
    scores, other = (score_responses(part, "judge", base_url=chat.url)["scores"][:] for part in (data, turned))
    assert [row[::-1] for row in other] == scores


@pytest.mark.parametrize(("answer", "place"), [("A", "first"), ("[[B]]", "second")])
def test_a_judge_that_looks_at_the_place(answer, place, chat, caplog):
    chat.answer = lambda body: answer
    scored = score_responses(CANDIDATES, "judge", base_url=chat.url)
    assert scored["scores"][:] == [[0.5] * 3, [0.5] * 2, [0.5] * 3, [None]]
    assert f"The judge chose the {place} response in 100% of the 10 answers that chose one" in caplog.text
    assert "For 3 of 4 prompts all scores are equal" in caplog.text
    picked = scored.map(
        real_select, batched=True, remove_columns=["responses", "scores"], fn_kwargs={"strategy": "random"}
    )
    assert len(picked) == 0  # a tie is never labeled


def test_ties_are_kept(chat, caplog):
    chat.answer = lambda body: "Tie."
    assert score_responses(CANDIDATES, "judge", base_url=chat.url)["scores"][0] == [0.5] * 3
    assert "neither A, B nor tie" not in caplog.text


def test_nonsense_is_missing_and_counted(chat, caplog):
    chat.answer = lambda body: "As an AI, 7 out of 10" if "ccc" in shown(body) else longer(body)
    scored = score_responses(CANDIDATES, "judge", base_url=chat.url)
    assert scored["scores"][0] == [0, 1, None]
    assert (
        "4 of 10 answers of the judge are neither A, B nor tie, and are not counted. Example: 'As an AI" in caplog.text
    )
    assert "2 of 9 responses have no score" in caplog.text
    assert len(chat.requests) == 10
    score_responses(CANDIDATES, "judge", base_url=chat.url)
    assert len(chat.requests) == 10  # it would say the same


def test_one_order_is_no_verdict(chat):
    chat.answer = lambda body: "what?" if shown(body)[0] == "dddd" else longer(body)
    assert score_responses(CANDIDATES, "judge", base_url=chat.url)["scores"][1] == [None, None]


def test_a_judge_that_never_answers(chat):
    chat.answer = lambda body: "I cannot say."
    with pytest.raises(ValueError, match=r"None of the 5 responses got a score from judge. 8 of 8 answers"):
        score_responses(CANDIDATES.select([0, 1]), "judge", base_url=chat.url)


def test_questions_that_are_refused_are_counted(chat, caplog):
    chat.answer = lambda body: 400 if "ccc" in shown(body) else longer(body)
    assert score_responses(CANDIDATES, "judge", base_url=chat.url)["scores"][0] == [0, 1, None]
    assert "4 of 10 questions were not answered. The first: http://127.0.0.1" in caplog.text


def test_messages_and_empty_responses(chat):
    chat.answer = longer
    say = [[{"role": "assistant", "content": text}] for text in ("x", "yy", " ")]
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
    data = Dataset.from_dict({"prompt": [prompt], "responses": [say]})
    assert score_responses(data, "judge", base_url=chat.url)["scores"][:] == [[0, 1, None]]
    assert (
        "<conversation>\nsystem: Be brief.\n\nuser: hello\n</conversation>"
        in chat.requests[0][1]["messages"][0]["content"]
    )


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("A", 1), ("b", 0), ("**B**", 0), ("[[A]]", 1), ("Answer: tie", 0.5), ("Response A.", 1), ("The better response is B", 0),
        ("<think>B? No, A.</think>\n\nB", 0), ("", None), (None, None), ("A or B", None), ("Apple", None), ("C", None),
        ("Both", None), ("7", None), ("A B", None),
    ],
)  # fmt: skip
def test_verdicts(answer, expected):
    assert verdict(answer) == expected

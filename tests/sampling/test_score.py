"""Scores from reward models and functions, and what cannot be scored."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from trl_real import load_sample, score_responses, select_preferences


CANDIDATES = Dataset.from_dict(
    {
        "prompt": ["the cat", "green hills"],
        "responses": [["sat on", "ate fresh fish", ""], ["far from any noisy town"]],
        "id": [5, 6],
    }
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@torch.no_grad()
def one_by_one(folder, prompt, response):
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    return model(**tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)).logits.item()


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("conversational", [False, True])
def test_a_reward_model(batch_size, conversational, tiny_reward_model, caplog):
    data = CANDIDATES
    if conversational:
        data = Dataset.from_list(
            [
                {
                    "prompt": [{"role": "user", "content": row["prompt"]}],
                    "responses": [
                        [{"role": "assistant", "content": text}] if text else [] for text in row["responses"]
                    ],
                }
                for row in CANDIDATES
            ]
        )
    scored = score_responses(data, tiny_reward_model, batch_size=batch_size, dtype="float32")
    for row, scores in zip(CANDIDATES, scored["scores"], strict=True):
        for response, score in zip(row["responses"], scores, strict=True):
            expected = one_by_one(tiny_reward_model, row["prompt"], response) if response else None
            assert score == (None if expected is None else pytest.approx(expected, abs=1e-5))
    assert "1 of 4 responses have no score. They will not form pairs." in caplog.text


def test_a_reward_model_object_stays_as_it_is(tiny_reward_model):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_reward_model).train()
    by_object, by_path = (
        score_responses(CANDIDATES, m, dtype="float32")["scores"][:] for m in (model, tiny_reward_model)
    )
    assert by_object == by_path
    assert model.training


def test_what_is_longer_than_the_model_has_no_score(tiny_reward_model, caplog):
    data = Dataset.from_dict({"prompt": ["the cat"], "responses": [["sat", "cat " * 500]]})
    scores = score_responses(data, tiny_reward_model)["scores"][0]
    assert [score is None for score in scores] == [False, True]
    assert "1 responses have no score: with their prompts they do not fit into the 256 positions" in caplog.text


def test_a_model_without_a_trained_head_is_refused(tiny_lm):
    with pytest.raises(
        ValueError, match=r"is not a reward model: its files have no weights for score.weight, so they would be random"
    ):
        score_responses(CANDIDATES, tiny_lm)


def test_a_model_with_two_outputs_is_refused(tiny_reward_model, tmp_path):
    from transformers import GPT2ForSequenceClassification

    model = GPT2ForSequenceClassification.from_pretrained(tiny_reward_model)
    two = GPT2ForSequenceClassification(type(model.config)(**{**model.config.to_dict(), "num_labels": 2}))
    two.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_reward_model).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has 2 outputs, but a reward model has one"):
        score_responses(CANDIDATES, str(tmp_path))


def test_functions_are_called_as_by_trl():
    calls = []

    def length(prompts, completions, id, **kwargs):
        calls.append((prompts, completions, id, kwargs))
        return [len(text) for text in completions]

    def not_of_fish(completions, **kwargs):
        return [None if "fish" in text else 100 for text in completions]

    data = CANDIDATES.add_column("topic", ["x", "y"])
    assert score_responses(data, length)["scores"][:] == [[6, 14, 0], [23]]
    assert calls[0] == (["the cat"] * 3, CANDIDATES[0]["responses"], [5] * 3, {"topic": ["x"] * 3})
    assert score_responses(data, [length, not_of_fish])["scores"][:] == [[106, 14, 100], [123]]
    assert score_responses(data, not_of_fish)["scores"][:] == [[100, None, 100], [100]]


def test_rewards_of_trl():
    from trl.rewards import think_format_reward

    say = [[{"role": "assistant", "content": text}] for text in ("<think>hm</think>yes", "yes")]
    data = Dataset.from_dict({"prompt": [[{"role": "user", "content": "?"}]], "responses": [say]})
    assert score_responses(data, think_format_reward)["scores"][:] == [[1, 0]]


def test_a_function_is_not_called_twice_for_the_same_row(tmp_path):
    calls = tmp_path / "calls.txt"

    def reward(prompts, completions, **kwargs):
        with calls.open("a") as file:
            file.write(f"{prompts[0]}\n")
        if calls.read_text().count("\n") == 2:
            raise RuntimeError("gone")
        return [float(len(text)) for text in completions]

    with pytest.raises(RuntimeError, match="gone"):
        score_responses(CANDIDATES, reward)
    assert score_responses(CANDIDATES, reward)["scores"][:] == [[6, 14, 0], [23]]
    assert calls.read_text().splitlines() == ["the cat", "green hills", "green hills"]


def test_a_function_that_cannot_be_told_from_others_is_called_again(caplog):
    class Connection:
        def __reduce__(self):
            raise TypeError("a connection cannot be pickled")

    connection = Connection()

    def reward(completions, **kwargs):
        return [float(len(text)) for text in completions if connection]

    assert score_responses(CANDIDATES, reward)["scores"][:] == [[6, 14, 0], [23]]
    assert "`reward` cannot be hashed, so an interrupted run will start over: " in caplog.text


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            [1.0],
            r"The function `reward` must return one number, or `None`, for each of 3 completions, got list \(\[1.0\]\)",
        ),
        (["x"] * 3, "must return one number"),
        (None, "must return one number"),
    ],
)
def test_functions_that_return_something_else(returned, message):
    def reward(completions, **kwargs):
        return returned

    with pytest.raises(ValueError, match=message):
        score_responses(CANDIDATES, reward)


def test_numbers_that_are_none_are_missing():
    def reward(completions, **kwargs):
        return [float("nan"), float("inf"), 3][: len(completions)]

    assert score_responses(CANDIDATES.select([0]), reward)["scores"][:] == [[None, None, 3]]
    with pytest.raises(ValueError, match="None of the 1 responses got a score from reward"):
        score_responses(CANDIDATES.select([1]), reward)


def test_scores_go_on_to_the_selection(tiny_encoder):
    from trl_real import SelectionConfig

    def brevity(completions, **kwargs):
        return [None if len(text) > 300 else -len(text) for text in completions]

    scored = score_responses(load_sample().remove_columns("scores"), brevity)
    pairs, _ = select_preferences(scored, SelectionConfig(embedder=tiny_encoder))
    assert len(pairs) > 30
    assert all(len(row["chosen"]) < len(row["rejected"]) <= 300 for row in pairs)


@pytest.mark.parametrize(
    ("data", "model", "error", "message"),
    [
        ([1], len, TypeError, "`candidates` must be a `datasets.Dataset`"),
        (CANDIDATES.remove_columns("responses"), len, ValueError, "`candidates` has no column `responses`"),
        (CANDIDATES.add_column("scores", [[1.0], [1.0]]), len, ValueError, "has a column `scores` already"),
        (
            Dataset.from_dict({"prompt": ["a"], "responses": ["b"]}),
            len,
            ValueError,
            "Column `responses` must contain lists",
        ),
        (CANDIDATES, 3, TypeError, "`model` must be a reward model, the name of a judge at `base_url`, a function"),
        (CANDIDATES, [], TypeError, "`model` must be a reward model"),
        (CANDIDATES, "/nope", OSError, "The model '/nope' cannot be loaded"),
    ],
)
def test_mistakes(data, model, error, message):
    with pytest.raises(error, match=message):
        score_responses(data, model)

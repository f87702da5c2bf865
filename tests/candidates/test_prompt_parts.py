import pytest
from datasets import Dataset, IterableDataset

from trl_real import SelectionConfig, select_preferences, to_candidates


def user(text):
    return {"role": "user", "content": text}


def said(text):
    return [{"role": "assistant", "content": text}]


def every_kind(rows):
    dataset = Dataset.from_list(rows)
    return dataset, dataset.to_iterable_dataset(), IterableDataset.from_generator(lambda: iter(rows))


PAIR = {"chosen": "3", "rejected": "12"}
RESPONSES = [PAIR, {"responses": ["3", "12"], "scores": [1.0, 0.0]}, {"completion": "3", "label": True}]


@pytest.mark.parametrize("responses", RESPONSES)
def test_the_input_of_alpaca_is_in_the_prompt(responses, caplog):
    rows = [{"instruction": "Add.", "input": about, **responses} for about in ("1 and 2", "", None)]
    for dataset in every_kind(rows):
        prompts = [row["prompt"] for row in to_candidates(dataset)]
        assert prompts[0] == "Add.\n\n1 and 2"
        assert set(prompts[1:]) == {"Add."}
        (turn,) = next(iter(to_candidates(dataset, conversational=True)))["prompt"]
        assert turn["content"] == "Add.\n\n1 and 2"
    assert not caplog.text


@pytest.mark.parametrize("responses", RESPONSES)
def test_an_input_beside_another_prompt_is_named(responses, caplog):
    for dataset in every_kind([{"question": "Add.", "input": "1 and 2", **responses}]):
        caplog.clear()
        assert next(iter(to_candidates(dataset)))["prompt"] == "Add."
        assert "The column `input` is not part of the prompt, which is read from `question` only." in caplog.text


@pytest.mark.parametrize("column", ["system", "system_prompt"])
@pytest.mark.parametrize("responses", RESPONSES)
def test_a_system_column_is_a_system_message(responses, column, caplog):
    expected = [{"role": "system", "content": "Be brief."}, user("Add.")]
    as_messages = {
        name: [said(text) for text in value]
        if name == "responses"
        else said(value)
        if isinstance(value, str)
        else value
        for name, value in responses.items()
    }
    for row in ({"prompt": "Add.", **as_messages}, {"prompt": [user("Add.")], **as_messages}):
        for dataset in every_kind([{column: "Be brief.", **row}]):
            (found,) = to_candidates(dataset)
            assert found["prompt"] == expected
    for dataset in every_kind([{column: "Be brief.", "prompt": expected, **as_messages}]):  # which has it already
        assert next(iter(to_candidates(dataset)))["prompt"] == expected
    assert not caplog.text
    for dataset in every_kind([{column: "Be brief.", "prompt": "Add.", **responses}]):
        caplog.clear()
        assert next(iter(to_candidates(dataset)))["prompt"] == "Add."
        assert f"The column `{column}` is not part of the prompt" in caplog.text
        assert next(iter(to_candidates(dataset, conversational=True)))["prompt"] == expected


def test_the_system_message_is_in_the_selected_pairs():
    rows = [{"system": "Be brief.", "prompt": [user("Add.")], "responses": [said("3"), said("12")], "scores": [1, 0]}]
    pairs, _ = select_preferences(Dataset.from_list(rows), SelectionConfig(strategy="random"))
    assert [turn["content"] for turn in pairs[0]["prompt"]] == ["Be brief.", "Add."]

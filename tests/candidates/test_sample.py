import re

import pytest

from trl_real import load_sample


@pytest.mark.parametrize("name", ["standard", "conversational"])
def test_rows_are_what_the_documentation_says(name):
    data = load_sample(name)
    assert data.column_names == ["topic", "prompt", "responses", "scores"]
    for row in data:
        assert 4 <= len(row["responses"]) <= 6
        assert len(row["scores"]) == len(row["responses"])
        assert all(1 <= score <= 10 for score in row["scores"])
        assert max(row["scores"]) - min(row["scores"]) >= 4
        texts = row["responses"] if name == "standard" else [reply[-1]["content"] for reply in row["responses"]]
        assert len({text.strip() for text in texts}) == len(texts)
    assert len(set(map(str, data["prompt"]))) == len(data)


def test_longest_is_not_best():
    data = load_sample()
    longest = [max(range(len(row["scores"])), key=lambda i: len(row["responses"][i])) for row in data]
    best = [row["scores"].index(max(row["scores"])) for row in data]
    assert sum(a == b for a, b in zip(longest, best, strict=True)) < len(data) / 2


def test_unknown_name():
    with pytest.raises(
        ValueError, match=re.escape("`name` must be one of ['standard', 'conversational'], got 'chat'.")
    ):
        load_sample("chat")

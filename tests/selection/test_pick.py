import pytest
from conftest import candidate_rows
from datasets import Dataset, Features, Value

from trl_real import SelectionConfig, select_preferences
from trl_real.selection import pick
from trl_real.selection.pick import batch_size


@pytest.mark.parametrize(
    ("responses", "pairs_per_prompt", "expected"),
    [([40, 2], 1, 1000), ([40, 2], 10_000, 12), ([40, 2], 20, 500), ([400], 10_000, 1), ([0, 1], 7, 1000)],
)
def test_pairs_of_a_batch_fit_into_memory(responses, pairs_per_prompt, expected):
    candidates = Dataset.from_dict({"responses": [["x"] * n for n in responses]})
    assert batch_size(candidates, pairs_per_prompt) == expected


def test_given_pairs_and_columns_without_lists_have_the_usual_batch():
    for features in ({"chosen": Value("string")}, {"responses": Value("null")}):
        assert batch_size(Dataset.from_dict({name: [] for name in features}, Features(features)), 5) == 1000


@pytest.mark.parametrize(
    "options", [{}, {"budget": 40}, {"budget": 40, "budget_min_distance": 0.2}, {"strategy": "random"}]
)
def test_pairs_do_not_depend_on_how_many_are_picked_at_once(options, rng, monkeypatch):
    candidates = Dataset.from_list(candidate_rows(rng, 30, dim=8))
    config = SelectionConfig(pairs_per_prompt=6, **options)
    expected, report = select_preferences(candidates, config)
    monkeypatch.setattr(pick, "MAX_PAIRS", 13)
    monkeypatch.setattr(pick, "MAX_PROMPTS", 7)
    found, again = select_preferences(Dataset.from_list(candidates.to_list()), config)
    assert found.to_list() == expected.to_list()
    assert again == report

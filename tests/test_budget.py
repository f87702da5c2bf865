import re

import numpy as np
import pytest
from datasets import Dataset

from trl_real import select_budget


def pairs(similarity):
    return Dataset.from_dict({"row": list(range(len(similarity))), "similarity": similarity})


@pytest.mark.parametrize("strategy", ["easy", "centroid", "hard"])
def test_keeps_the_pairs_that_a_stable_sort_puts_first(strategy):
    for seed in range(200):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(2, 40))
        similarity = (rng.integers(-3, 4, n) / 4).tolist()  # many ties
        count = int(rng.integers(1, n + 1))
        sign = -1 if strategy == "hard" else 1
        expected = sorted(sorted(range(n), key=lambda i: sign * similarity[i])[:count])
        assert select_budget(pairs(similarity), count, strategy)["row"][:] == expected


@pytest.mark.parametrize(
    ("budget", "n", "kept"), [(0.5, 7, 3), (0.29, 100, 29), (0.35, 60, 21), (3, 7, 3), (7, 7, 7), (0.999, 10, 9)]
)
def test_a_share_is_rounded_down_and_a_count_is_exact(budget, n, kept):
    assert len(select_budget(pairs(np.linspace(-1, 1, n)), budget)) == kept


def test_random_is_a_seeded_sample_without_repeats():
    data = pairs([None] * 100)
    rows = select_budget(data, 30, "random", seed=1)["row"][:]
    assert rows == sorted(set(rows))
    assert len(rows) == 30
    assert rows == select_budget(data, 30, "random", seed=1)["row"][:]
    assert rows != select_budget(data, 30, "random", seed=2)["row"][:]


@pytest.mark.parametrize("strategy", ["easy", "hard"])
def test_pairs_without_a_similarity_come_last(strategy):
    assert select_budget(pairs([None, 0.5, float("nan"), 0.1]), 2, strategy)["row"][:] == [1, 3]


def test_more_than_there_is_keeps_all_with_a_warning(caplog):
    assert len(select_budget(pairs([0.1, 0.2]), 5)) == 2
    assert "`budget=5` is more than the 2 pairs there are: all are kept." in caplog.text


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (pairs([0.1, 0.2]), {"budget": 1.0}, ValueError, "`budget=1.0` could mean one pair or all of them"),
        (pairs([0.1, 0.2]), {"budget": 0.3}, ValueError, "`budget=0.3` of 2 pairs keeps none. Raise it."),
        (pairs([0.1]), {"budget": 1, "strategy": "best"}, ValueError, "`strategy` must be one of"),
        (pairs(["a", "b"]), {"budget": 1}, ValueError, "Column `similarity`: expected numbers, found string."),
        (pairs([0.1]), {"budget": 1, "seed": -1}, ValueError, "`seed` must be a whole number of at least 0, got -1."),
        (pairs([None, None]), {"budget": 1}, ValueError, "Column `similarity` holds no number to rank by"),
        (Dataset.from_dict({"a": [1, 2]}), {"budget": 1}, ValueError, "Found: ['a']. Run `dataset.map(real_select"),
        (pairs([0.1]).to_iterable_dataset(), {"budget": 1}, TypeError, "got IterableDataset. Load the data without"),
    ],
)
def test_wrong_input_is_named(data, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        select_budget(data, **options)

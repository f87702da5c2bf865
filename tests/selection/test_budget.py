import re

import numpy as np
import pytest
from conftest import candidate_rows, sentence
from datasets import Dataset

import trl_real.selection.budget as budget_module
from trl_real import real_select, select_budget


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
    assert "`budget=5` is more than the 2 pairs there are: it leaves none out." in caplog.text


def full_pairs(rng, n, dim=4):
    """Pairs with everything that a limit looks at, a few a prompt."""
    return Dataset.from_dict(
        {
            "row": list(range(n)),
            "prompt": [f"question {i}" for i in rng.integers(0, max(1, n // 3), n)],
            "chosen": [sentence(rng, i) for i in rng.integers(1, 9, n)],
            "rejected": [sentence(rng, i) for i in rng.integers(1, 9, n)],
            "score_chosen": rng.integers(5, 9, n).astype(float),
            "score_rejected": rng.integers(0, 4, n).astype(float),
            "similarity": (rng.integers(-3, 4, n) / 4).astype(np.float32),
            "embeddings": rng.integers(-1, 3, (n, 2, dim)).astype(np.float32) + 0.1,  # some are the same
            "minutes": rng.integers(0, 5, n),
        }
    )


def oracle(rows, budget, strategy, cost=None, pairs_per_prompt=None, min_distance=None, threshold=None):
    """The kept rows by definition, one pair at a time."""
    sign = -1 if strategy == "hard" else 1
    if threshold is not None:
        rows_left = [row for row in rows if sign * row["similarity"] <= sign * threshold]
    else:
        rows_left = list(rows)
    if strategy == "max_min":
        rows_left.sort(key=lambda row: row["score_rejected"] - row["score_chosen"])
    else:
        rows_left.sort(key=lambda row: sign * row["similarity"])

    def price(row):
        if cost is None:
            return 1
        if cost == "minutes":
            return row["minutes"]
        texts = [row["prompt"], row["chosen"], row["rejected"]]
        return sum(len(text) if cost == "characters" else len(text.split()) for text in texts)

    def place(row):
        middle = sum(np.asarray(v, float) / np.linalg.norm(v) for v in row["embeddings"])
        return middle / np.linalg.norm(middle)

    total = budget if isinstance(budget, int) else budget * sum(map(price, rows))
    kept = []
    for row in rows_left:
        if price(row) + sum(map(price, kept)) > total + 1e-9:
            continue
        if pairs_per_prompt and sum(other["prompt"] == row["prompt"] for other in kept) >= pairs_per_prompt:
            continue
        if min_distance is not None and any(1 - place(row) @ place(other) <= min_distance + 1e-9 for other in kept):
            continue
        kept.append(row)
    return sorted(row["row"] for row in kept)


def test_limits_are_those_of_brute_force(monkeypatch):
    monkeypatch.setattr(budget_module, "BLOCK", 7)
    for seed in range(300):
        rng = np.random.default_rng(seed)
        data = full_pairs(rng, int(rng.integers(3, 40)))
        limits = {
            "cost": rng.choice([None, "characters", "tokens", "minutes"]),
            "pairs_per_prompt": rng.choice([None, 1, 2]),
            "min_distance": rng.choice([None, 0.0, 0.1, 0.5]),
        }
        strategy = str(rng.choice(["easy", "hard", "max_min"]))
        limits["threshold"] = None if strategy == "max_min" else rng.choice([None, 0.25, -0.25])
        budget = float(rng.uniform(0.3, 0.9)) if rng.random() < 0.7 else 40
        expected = oracle(data.to_list(), budget, strategy, **limits)
        if expected:
            assert select_budget(data, budget, strategy, **limits)["row"][:] == expected
        else:
            with pytest.raises(ValueError, match=r"keeps none|No pair is within"):
                select_budget(data, budget, strategy, **limits)


def row_numbers(stream):
    return [int(row["row"]) for row in stream.with_format(None)]


def test_fractions_add_up():
    data = pairs([0.1] * 10).add_column("price", [0.1] * 10)
    assert len(select_budget(data, 0.3, cost="price")) == 3
    assert len(select_budget(pairs([0.1] * 4).add_column("price", [1e-10] * 4), 0.5, cost="price")) == 2


def test_equal_pairs_are_no_distance_apart(rng):
    vector = rng.standard_normal((1, 2, 384)).astype(np.float32)
    columns = {"chosen": ["a"] * 2500, "rejected": ["b"] * 2500, "similarity": [0.1] * 2500}
    data = Dataset.from_dict({**columns, "embeddings": np.repeat(vector, 2500, axis=0)})
    assert len(select_budget(data, None, min_distance=0.0)) == 1


def test_rows_that_are_kept_without_a_pair_have_no_place_in_a_budget(rng):
    rows = candidate_rows(rng, 20, (2, 3), dim=4)
    for row in rows[::2]:
        row["scores"] = [1.0] * len(row["scores"])
    kept = Dataset.from_list(rows).map(real_select, batched=True, fn_kwargs={"on_skip": "keep"})
    n_pairs = sum(reason is None for reason in kept["skip_reason"])
    for strategy in ("easy", "random", "max_min"):
        assert None not in select_budget(kept, n_pairs, strategy)["chosen"][:]
        assert len(select_budget(kept, 0.5, strategy)) == n_pairs // 2
    with pytest.raises(ValueError, match="`select_budget` got no pairs: the dataset is empty, or none of its rows"):
        select_budget(kept.filter(lambda reason: reason is not None, input_columns="skip_reason"), 1)


def test_a_stream_is_filtered_as_the_dataset_is(rng):
    data = full_pairs(rng, 50)
    for strategy, threshold in (("easy", -0.25), ("hard", 0.25), ("centroid", 0.0)):
        expected = select_budget(data, None, strategy, threshold=threshold)["row"][:]
        for stream in (
            data.to_iterable_dataset(num_shards=3),
            *(data.with_format(kind).to_iterable_dataset() for kind in ("numpy", "torch", "arrow", "pandas")),
        ):
            kept = select_budget(stream, None, strategy, threshold=threshold)
            assert row_numbers(kept) == expected
            first = select_budget(stream, 3, strategy, threshold=threshold)
            assert row_numbers(first) == expected[:3]
    nulls = pairs([None, 0.1, float("nan"), 0.9]).to_iterable_dataset()
    assert [row["row"] for row in select_budget(nulls, None, threshold=0.5)] == [1]


def test_tokens_are_words_marks_and_characters_of_scripts_without_spaces():
    texts = {"prompt": ["Why, though?"], "chosen": ["It's  2\n+ 2."], "rejected": ["\u732b\u304c\u597d\u304d"]}
    data = Dataset.from_dict({**texts, "similarity": [0.1]})
    assert budget_module._costs(data, "tokens").tolist() == [4 + 7 + 4]
    assert budget_module._costs(data, "characters").tolist() == [12 + 12 + 4]


def test_messages_cost_what_a_person_reads():
    data = Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": "Why?"}]],
            "response_a": [[{"role": "assistant", "content": "Hm."}]],
            "response_b": [[{"role": "assistant", "content": None}]],
            "similarity": [0.1],
        }
    )
    assert budget_module._costs(data, "characters").tolist() == [7]


def test_pairs_are_compared_by_the_vectors_of_their_sides(rng):
    rows = candidate_rows(rng, 20, (2, 5), dim=4)
    candidates = Dataset.from_list(rows)
    pairs = candidates.map(real_select, batched=True, fn_kwargs={"pairs_per_prompt": 2})
    sides = [
        [row["embeddings"][row["responses"].index(row[side])] for side in ("chosen", "rejected")] for row in pairs
    ]
    by_hand = pairs.remove_columns(["responses", "embeddings"]).add_column("embeddings", sides)
    options = {"budget": None, "min_distance": 0.4}
    kept = select_budget(pairs, **options)
    assert len(kept) < len(pairs)
    assert kept["chosen"][:] == select_budget(by_hand, **options)["chosen"][:]
    with pytest.raises(
        ValueError, match=re.escape("Column `embeddings`, row 0: found 4 vectors, neither one per side")
    ):
        select_budget(pairs.remove_columns("responses"), **options)


def test_a_budget_in_what_people_read(caplog):
    data = full_pairs(np.random.default_rng(0), 30)
    cost = budget_module._costs(data, "characters")
    kept = select_budget(data, 500, cost="characters")
    assert cost[kept["row"][:]].sum() <= 500
    with pytest.raises(ValueError, match=r"`budget=5` keeps none: the cheapest pair costs \d+ characters. Raise it."):
        select_budget(data, 5, cost="characters")
    assert len(select_budget(data, 10**9, cost="characters")) == 30
    assert "characters of all pairs: it leaves none out." in caplog.text


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (pairs([0.1, 0.2]), {"budget": 1.0}, ValueError, "`budget=1.0` could mean one pair or all of them"),
        (pairs([0.1, 0.2]), {"budget": 0.3}, ValueError, "`budget=0.3` of 2 pairs keeps none. Raise it."),
        (pairs([0.1]), {"budget": 1, "strategy": "best"}, ValueError, "`strategy` must be one of"),
        (pairs(["a", "b"]), {"budget": 1}, ValueError, "Column `similarity`: expected numbers, found string."),
        (pairs([0.1]), {"budget": 1, "seed": -1}, ValueError, "`seed` must be a whole number of at least 0, got -1."),
        (pairs([None, None]), {"budget": 1}, ValueError, "Column `similarity` holds no number to rank by"),
        (
            Dataset.from_dict({"a": [1, 2]}),
            {"budget": 1},
            ValueError,
            "`select_budget` needs the column `similarity`, which `real_sel",
        ),
        ([{"similarity": 1}], {"budget": 1}, TypeError, "needs a `datasets.Dataset` or `IterableDataset`, got list."),
        (pairs([0.1]), {"budget": None}, ValueError, "`budget=None` keeps all pairs. Give a budget, or"),
        (
            pairs([0.1]),
            {"budget": 1, "pairs_per_prompt": 0},
            ValueError,
            "`pairs_per_prompt` must be a whole number of",
        ),
        (
            pairs([0.1]),
            {"budget": 1, "pairs_per_prompt": 1},
            ValueError,
            "`pairs_per_prompt` needs the column `prompt`.",
        ),
        (
            pairs([0.1]),
            {"budget": 1, "min_distance": 3},
            ValueError,
            "`min_distance` must be a number from 0 to 2, got 3",
        ),
        (
            pairs([0.1]),
            {"budget": 1, "min_distance": 0.1},
            ValueError,
            "Comparing pairs needs the column `embeddings`.",
        ),
        (
            pairs([0.1]),
            {"budget": 1, "threshold": "a"},
            ValueError,
            "`threshold` must be a number from -1 to 1, got 'a'",
        ),
        (pairs([0.1]), {"budget": 1, "threshold": 0.0}, ValueError, "No pair is within `threshold=0.0`. Change it."),
        (
            pairs([0.1]),
            {"budget": 1, "threshold": 0, "strategy": "random"},
            ValueError,
            "by which 'random' does not rank",
        ),
        (
            pairs([0.1]),
            {"budget": 1, "cost": "words"},
            ValueError,
            "`cost` must be one of ['characters', 'tokens'] or a ",
        ),
        (pairs([0.1]), {"budget": 1, "cost": "tokens"}, ValueError, "`cost='tokens'` needs pairs with two responses."),
        (
            pairs([0.1]),
            {"budget": 1, "strategy": "max_min"},
            ValueError,
            "needs the column `score_rejected`, which `real_select` makes",
        ),
        (pairs([0.1]).to_iterable_dataset(), {"budget": 1}, ValueError, "A stream is read once and cannot be ranked:"),
        (
            pairs([0.1]).to_iterable_dataset(),
            {"budget": 0.5, "threshold": 0},
            ValueError,
            "threshold=0, budget=0.5. Or",
        ),
        (
            pairs([0.1]).to_iterable_dataset(),
            {"budget": 1, "threshold": 0, "cost": "tokens"},
            ValueError,
            "Got threshold=0, budget=1 and `cost`. Or load",
        ),
    ],
)
def test_wrong_input_is_named(data, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        select_budget(data, **options)

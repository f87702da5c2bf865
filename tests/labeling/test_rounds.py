"""Which pairs are labeled next, against brute force, and in any order, on any side, and however often it was interrupted."""

import re

import numpy as np
import pytest
from conftest import HashEmbedder
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import entr, expit
from scipy.stats import norm

from trl_real import embed_responses, next_pairs
from trl_real.labeling.preference_model import PreferenceModel
from trl_real.labeling.rounds import PICKS, bald, d_optimal


STRATEGIES = ["random", *PICKS]
GRID = np.linspace(-9, 9, 1001)


def unlabeled(rng, n, dim=6):
    """Unlabeled pairs with an embedding for each side."""
    return Dataset.from_dict(
        {
            "pair_id": [f"{i:x}" for i in range(n)],
            "prompt": [f"question {i % 30}" for i in range(n)],
            "response_a": [f"answer {i}" for i in range(n)],
            "response_b": [f"another {i} " + "word " * (i % 3) for i in range(n)],
            "embeddings": rng.normal(size=(n, 2, dim)).astype(np.float32).tolist(),
        }
    )


def turn(pairs, rows):
    """The same pairs with the sides of some rows the other way round."""
    turned = pairs.to_list()
    for r in rows:
        row = turned[r]
        row["response_a"], row["response_b"] = row["response_b"], row["response_a"]
        row["embeddings"] = row["embeddings"][::-1]
    return Dataset.from_list(turned, features=pairs.features)


def most_gain_by_brute_force(model, difference, n, gain):
    """Each pair in turn is the one with the greatest gain under the covariance that is inverted anew."""
    precision, picked = np.linalg.inv(model.covariance), []
    chances = expit(difference @ model.weights)
    for _ in range(n):
        variances = np.einsum("ij,jk,ik->i", difference, np.linalg.inv(precision), difference)
        gains = np.array([gain(m, v) for m, v in zip(difference @ model.weights, variances, strict=True)])
        gains[picked] = -np.inf
        best = int(gains.argmax())
        picked.append(best)
        precision = precision + chances[best] * (1 - chances[best]) * np.outer(difference[best], difference[best])
    return picked


def volume(logit, variance):
    return np.log1p(expit(logit) * (1 - expit(logit)) * variance)


def information(logit, variance):
    """The mutual information of a label and a normal log-odds, by the trapezoidal rule."""

    def mean(function):
        return np.trapezoid(function(expit(logit + np.sqrt(variance) * GRID)) * norm.pdf(GRID), GRID)

    chance = mean(lambda p: p)
    return entr(chance) + entr(1 - chance) - mean(lambda p: entr(p) + entr(1 - p))


@pytest.mark.parametrize(("strategy", "gain"), [("d_optimal", volume), ("bald", information)])
def test_picks_are_those_of_brute_force(strategy, gain, rng):
    for n_pairs in (12, 90):  # less and more than a block
        root = rng.normal(size=(4, 4))
        model = PreferenceModel(rng.normal(size=4), root @ root.T, 1.0)
        difference = rng.normal(size=(n_pairs, 4))
        found = PICKS[strategy](model, difference, 8)
        assert found.tolist() == most_gain_by_brute_force(model, difference, 8, gain)


def test_gains_are_what_they_are_called(rng):
    logits, variances = rng.normal(size=5), rng.exponential(size=5)
    for function, oracle in ((d_optimal, volume), (bald, information)):
        expected = [oracle(m, v) for m, v in zip(logits, variances, strict=True)]
        np.testing.assert_allclose(function(logits, variances), expected, atol=1e-5)


def test_easy_takes_the_least_similar(rng):
    pairs = unlabeled(rng, 40)
    chosen = next_pairs(pairs, n=10, strategy="easy", audit=0.1)
    vectors = np.array(pairs["embeddings"][:])
    cosines = (vectors[:, 0] * vectors[:, 1]).sum(1) / np.linalg.norm(vectors, axis=2).prod(1)
    cosine = dict(zip(pairs["pair_id"][:], cosines, strict=True))
    assert chosen["reason"][:] == ["audit"] + ["explore"] * 9
    others = sorted(set(cosine) - {chosen["pair_id"][0]}, key=cosine.get)
    assert chosen["pair_id"][1:] == others[:9]


def test_model_picks_explore_before_there_are_labels(rng):
    pairs = unlabeled(rng, 40)
    for labels, reason in ((None, "explore"), ({"0": "a"}, "uncertain"), ({"0": "tie"}, "explore")):
        for strategy in ("d_optimal", "bald"):
            chosen = next_pairs(pairs, labels, n=5, strategy=strategy)
            assert chosen["reason"][:] == ["audit", *[reason] * 4]
    assert set(next_pairs(pairs, n=5)["reason"]) == {"audit"}


LABELS = st.lists(st.sampled_from(["a", "b", "tie", None]), min_size=1, max_size=25)


@given(
    labels=LABELS,
    order=st.integers(0, 99),
    turned=st.sets(st.integers(0, 24)),
    strategy=st.sampled_from(STRATEGIES),
    seed=st.integers(0, 3),
)
@settings(max_examples=12)
def test_neither_order_nor_sides_matter(labels, order, turned, strategy, seed):
    pairs = unlabeled(np.random.default_rng(seed), 25)
    other_side = {"a": "b", "b": "a"}
    records = [{"pair_id": f"{i:x}", "label": label} for i, label in enumerate(labels)]
    expected = next_pairs(pairs, records, n=6, strategy=strategy, seed=seed)
    other = turn(pairs, turned).shuffle(order)
    there = [
        record | {"label": other_side.get(record["label"], record["label"])}
        if int(record["pair_id"], 16) in turned
        else record
        for record in records
    ]
    found = next_pairs(other, there[::-1], n=6, strategy=strategy, seed=seed)
    for column in ("pair_id", "reason"):
        assert found[column][:] == expected[column][:]
    assert len(expected) == min(6, 25 - len(labels))
    assert not set(expected["pair_id"]) & {record["pair_id"] for record in records}


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3), cut=st.integers(0, 9), seed=st.integers(0, 3))
@settings(max_examples=8)
def test_an_interrupted_loop_draws_the_same_pairs(sizes, cut, seed):
    """Rounds of any size, of which the last one is only labeled in part, draw what one large round draws."""
    pairs = unlabeled(np.random.default_rng(seed), 30).remove_columns("embeddings")
    labels = {}
    for size in sizes:
        labels |= dict.fromkeys(next_pairs(pairs, labels, n=size, seed=seed)["pair_id"], "a")
    last = next_pairs(pairs, labels, n=9, seed=seed)["pair_id"][:cut]
    labels |= dict.fromkeys(last, "b")
    together = min(30, sum(sizes) + len(last))
    assert set(labels) == set(next_pairs(pairs, n=together, seed=seed)["pair_id"])


def test_pairs_are_labeled_by_as_many_as_asked(rng):
    pairs = unlabeled(rng, 8)
    one = [{"pair_id": f"{i}", "label": "a", "annotator": "anna"} for i in range(4)]
    two = [{"pair_id": "0", "label": None, "annotator": "ben"}]
    assert len(next_pairs(pairs, one + two)) == 4
    assert set(next_pairs(pairs, one + two, labels_per_pair=2)["pair_id"]) == set("1234567")
    assert len(next_pairs(pairs, dict.fromkeys("01234567", None))) == 0


def test_columns_ride_along_and_pairs_come_once(rng):
    pairs = unlabeled(rng, 6)
    doubled = Dataset.from_list([*pairs, *pairs, pairs[0] | {"pair_id": None}])
    chosen = next_pairs(next_pairs(doubled), n=6)
    assert sorted(chosen["pair_id"]) == sorted(pairs["pair_id"])
    assert chosen.column_names == [*pairs.column_names, "reason"]
    rows = {row["pair_id"]: row for row in pairs}
    assert all(row == rows[row["pair_id"]] | {"reason": "audit"} for row in chosen)


def test_seeds_draw_other_pairs(rng):
    pairs = unlabeled(rng, 50)
    assert len({tuple(next_pairs(pairs, n=5, seed=seed)["pair_id"]) for seed in range(5)}) == 5


def test_sides_are_embedded_where_there_is_no_column(rng):
    pairs, embedder = unlabeled(rng, 20).remove_columns("embeddings"), HashEmbedder()
    labels = {"0": "a", "1": "b"}
    next_pairs(pairs, labels, embedder=embedder)
    assert not embedder.calls  # random needs none
    found = next_pairs(pairs, labels, n=5, strategy="d_optimal", embedder=embedder)
    sides = pairs.rename_columns({"response_a": "chosen", "response_b": "rejected"})
    embedded = sides.map(embed_responses, batched=True, fn_kwargs={"embedder": HashEmbedder()})
    column = pairs.add_column("embeddings", embedded["embeddings"][:])
    assert found["pair_id"][:] == next_pairs(column, labels, n=5, strategy="d_optimal")["pair_id"][:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "`n` must be a whole number of at least 1, got 0."),
        ({"strategy": "hard"}, "`strategy` must be one of ['random', 'easy', 'd_optimal', 'bald'], got 'hard'."),
        ({"audit": 0}, "`audit` must be above 0, got 0: without randomly sampled pairs"),
        ({"audit": 1.5}, "`audit` must be a number from 0 to 1, got 1.5."),
        ({"labels": {"ff": "a", "fe": "b"}}, "`labels` has 2 `pair_id`s that no pair has: 'ff', 'fe'."),
        ({"labels_per_pair": 0}, "`labels_per_pair` must be a whole number of at least 1, got 0."),
        ({"seed": -1}, "`seed` must be a whole number of at least 0, got -1."),
    ],
)
def test_wrong_options_are_named(rng, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        next_pairs(unlabeled(rng, 5), **options)


def test_wrong_pairs_are_named(rng):
    pairs = unlabeled(rng, 5)
    with pytest.raises(TypeError, match=r"`pairs` must be a `datasets.Dataset`, got DatasetDict\. Select one split"):
        next_pairs(DatasetDict(train=pairs))
    with pytest.raises(ValueError, match=re.escape("['pair_id'] are missing")):
        next_pairs(pairs.remove_columns("pair_id"))

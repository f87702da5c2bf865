import itertools

import numpy as np
import pytest
from sklearn.cluster import KMeans

from trl_real import strategies
from trl_real.strategies import pick_pairs


def similarities(rng, n, k, dim=8):
    """Cosines of random unit vectors, half of the prompts in two clumps as real responses often are."""
    vectors = rng.standard_normal((n, k, dim))
    vectors[: n // 2] += (
        2 * rng.standard_normal((n // 2, 2, dim))[np.arange(n // 2)[:, None], rng.integers(0, 2, (n // 2, k))]
    )
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    return vectors, np.round(vectors @ vectors.transpose(0, 2, 1), 9)


def brute_force_2means(vectors):
    """The least within-cluster sum of squares over all splits, from the means of both clusters, and the split."""
    k = len(vectors)
    splits = np.array(list(itertools.product([False, True], repeat=k - 1)))[1:]  # the first response stays outside
    splits = np.hstack([np.zeros((len(splits), 1), bool), splits])
    explained = 0
    for clusters in (splits, ~splits):
        size = clusters.sum(1, keepdims=True)
        explained = explained + (size * (clusters @ vectors / size) ** 2).sum(1)
    best = int(explained.argmax())
    return (vectors**2).sum() - explained[best], splits[best]


def oracle(strategy, vectors, similarity, eligible):
    """The pick by its definition, one pair at a time."""
    pairs = list(itertools.combinations(range(len(similarity)), 2))
    if strategy == "centroid":
        _, split = brute_force_2means(vectors)
        means = {side: vectors[split == side].mean(0) for side in (False, True)}
        distance = [((vectors[i] - means[split[i]]) ** 2).sum() for i in range(len(vectors))]
        usable = [p for p, (i, j) in enumerate(pairs) if eligible[p] and split[i] != split[j]]
        cost = {p: distance[pairs[p][0]] + distance[pairs[p][1]] for p in usable}
        tied = [p for p in usable if cost[p] <= min(cost.values()) + 1e-6]
        return min(tied, key=lambda p: (similarity[pairs[p]], p), default=-1)
    sign = {"easy": 1, "hard": -1}[strategy]
    usable = [p for p in range(len(pairs)) if eligible[p]]
    return min(usable, key=lambda p: (sign * similarity[pairs[p]], p), default=-1)


@pytest.mark.parametrize("k", range(2, 17))
@pytest.mark.parametrize("strategy", ["easy", "hard"])
def test_picks_are_those_of_brute_force(strategy, k):
    rng = np.random.default_rng(k)
    vectors, similarity = similarities(rng, 200, k)
    eligible = rng.random((200, k * (k - 1) // 2)) < 0.7
    picks = pick_pairs(strategy, similarity, eligible)[:, 0]
    assert picks.tolist() == [oracle(strategy, *prompt) for prompt in zip(vectors, similarity, eligible, strict=True)]


@pytest.mark.parametrize("k", range(2, 17))
def test_centroid_picks_are_those_of_brute_force(k):
    rng = np.random.default_rng(k)
    n = 200 if k < 14 else 50
    vectors, similarity = similarities(rng, n, k)
    eligible = rng.random((n, k * (k - 1) // 2)) < 0.7
    picks = pick_pairs("centroid", similarity, eligible)[:, 0]
    assert picks.tolist() == [
        oracle("centroid", *prompt) for prompt in zip(vectors, similarity, eligible, strict=True)
    ]


def within_cluster_sum_of_squares(vectors, split):
    return sum(((c - c.mean(0)) ** 2).sum() for c in (vectors[split], vectors[~split]))


@pytest.mark.parametrize("k", [*range(10, 17), 20, 40])
def test_2means_is_never_worse_than_ten_restarts_of_scikit_learn(k):
    vectors, similarity = similarities(np.random.default_rng(k), 40, k)
    solve = strategies._best_split if k <= strategies.EXACT_2MEANS else strategies._search_split
    for row, split in zip(vectors, solve(similarity), strict=True):
        reference = KMeans(2, n_init=10, random_state=0).fit(row).inertia_
        assert within_cluster_sum_of_squares(row, split) <= reference + 1e-6


def test_restarts_find_what_the_exact_search_finds():
    _, similarity = similarities(np.random.default_rng(1), 300, 9)
    exact, found = strategies._best_split(similarity), strategies._search_split(similarity)
    same = (exact == found).all(1) | (exact == ~found).all(1)
    assert same.mean() > 0.99


def test_centroid_of_a_cluster_of_two_goes_to_the_less_similar_pair():
    # Two close vectors against one: both are equally far from their mean.
    angles = np.array([0.0, 0.2, 2.0])
    similarity = np.cos(angles[:, None] - angles)[None]
    assert pick_pairs("centroid", similarity, np.ones((1, 3), bool))[0, 0] == 1  # (0, 2), the wider angle


def test_exact_ties_go_to_the_first_pair():
    similarity = np.ones((1, 4, 4))
    for strategy in ("easy", "hard"):
        assert pick_pairs(strategy, similarity, np.array([[False, True, True, True, True, True]]))[0, 0] == 1


@pytest.mark.parametrize("strategy", ["easy", "hard", "centroid", "random"])
def test_several_pairs_come_best_first_without_repeats(strategy):
    rng = np.random.default_rng(3)
    _, similarity = similarities(rng, 50, 5)
    eligible = rng.random((50, 10)) < 0.6
    seeds = rng.integers(0, 2**63, 50).astype(np.uint64) if strategy == "random" else None
    several = pick_pairs(strategy, similarity, eligible, 20, seeds)
    assert several.shape == (50, 10)
    assert (several[:, 0] == pick_pairs(strategy, similarity, eligible, 1, seeds)[:, 0]).all()
    for row, allowed in zip(several, eligible, strict=True):
        found = row[row >= 0].tolist()
        assert len(set(found)) == len(found)
        assert set(found) <= set(np.flatnonzero(allowed).tolist())
        if strategy != "centroid":  # which leaves out pairs within a cluster
            assert len(found) == allowed.sum()


@pytest.mark.parametrize("strategy", ["easy", "hard", "centroid", "random"])
@pytest.mark.parametrize("k", [3, 8, 13, 17])
def test_a_prompt_is_picked_from_alone_as_in_a_batch(strategy, k, monkeypatch):
    rng = np.random.default_rng(k)
    _, similarity = similarities(rng, 40, k)
    similarity[::4, 1] = similarity[::4, 0]  # equal embeddings
    similarity[::4, :, 1] = similarity[::4, :, 0]
    similarity[::4, 1, 1] = 1
    eligible = rng.random((40, k * (k - 1) // 2)) < 0.8
    seeds = rng.integers(0, 2**63, 40).astype(np.uint64) if strategy == "random" else None
    together = pick_pairs(strategy, similarity, eligible, 2, seeds)
    alone = [
        pick_pairs(
            strategy, similarity[i : i + 1], eligible[i : i + 1], 2, None if seeds is None else seeds[i : i + 1]
        )
        for i in range(40)
    ]
    assert (together == np.concatenate(alone)).all()
    monkeypatch.setattr(strategies, "MAX_COSTS", 1)
    assert (together == pick_pairs(strategy, similarity, eligible, 2, seeds)).all()


def test_random_is_uniform():
    n, k = 20_000, 4
    seeds = np.arange(n, dtype=np.uint64)
    picks = pick_pairs("random", np.full((n, k, k), np.nan), np.ones((n, 6), bool), 1, seeds)[:, 0]
    counts = np.bincount(picks, minlength=6)
    assert abs(counts - n / 6).max() < 5 * np.sqrt(n / 6)


def test_500_responses():
    _, similarity = similarities(np.random.default_rng(0), 2, 500)
    eligible = np.ones((2, 500 * 499 // 2), bool)
    first, second = np.triu_indices(500, 1)
    pick = pick_pairs("easy", similarity, eligible)[:, 0]
    assert (similarity[:, first, second].min(1) == similarity[[0, 1], first[pick], second[pick]]).all()
    assert (pick_pairs("centroid", similarity, eligible) >= 0).all()

import itertools
import math
import re

import numpy as np
import pytest
from conftest import similarities

from trl_real import strategies
from trl_real.strategies import STRATEGIES, check_strategy, pick_pairs


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


def mean_similarity(similarity, i):
    others = [similarity[i, j] for j in range(len(similarity)) if j != i]
    return sum(others) / len(others)


def oracle(strategy, vectors, similarity, scores, eligible, **options):
    """The pick by its definition, one pair at a time; -1 for none."""
    k = len(similarity)
    pairs = list(itertools.combinations(range(k), 2))
    usable = [p for p in range(len(pairs)) if eligible[p]]
    tolerance = 0.0
    if strategy == "easy":
        cost = {p: similarity[pairs[p]] for p in usable}
    elif strategy == "hard":
        cost = {p: -similarity[pairs[p]] for p in usable}
    elif strategy == "centroid":
        _, split = brute_force_2means(vectors)
        means = {side: vectors[split == side].mean(0) for side in (False, True)}
        distance = [((vectors[i] - means[split[i]]) ** 2).sum() for i in range(k)]
        usable = [p for p in usable if split[pairs[p][0]] != split[pairs[p][1]]]
        cost, tolerance = {p: sum(distance[i] for i in pairs[p]) for p in usable}, 1e-6
    elif strategy == "aepo":
        central = [mean_similarity(similarity, i) * (k - 1) for i in range(k)]
        gain = {p: sum(central[i] for i in pairs[p]) / (2 * (k - 1)) for p in usable}
        cost = {p: options.get("lambda_", 1.0) * similarity[pairs[p]] - gain[p] for p in usable}
        tolerance = 1e-9
    elif strategy == "max_min":
        cost = {p: -abs(scores[pairs[p][0]] - scores[pairs[p][1]]) for p in usable}
    elif strategy == "chain":
        ranking = sorted(set(scores.tolist()))
        place = {list(scores).index(score): n for n, score in enumerate(ranking)}  # the first response of each score
        neighbors = [
            p for p in usable if set(pairs[p]) <= set(place) and abs(place[pairs[p][0]] - place[pairs[p][1]]) == 1
        ]
        cost = {p: -abs(scores[pairs[p][0]] - scores[pairs[p][1]]) for p in neighbors}
    elif strategy == "divpo":
        threshold = options.get("threshold", (min(scores) + max(scores)) / 2)
        cost = {}
        for p in usable:
            low, high = sorted(pairs[p], key=lambda i: scores[i])
            if scores[low] < threshold < scores[high]:
                cost[p] = mean_similarity(similarity, high) - mean_similarity(similarity, low)
        tolerance = 1e-9
    elif strategy == "dissimilar_gap":
        weight, widest = options.get("gap_weight", 0.5), max(scores) - min(scores)
        gap = {p: abs(scores[pairs[p][0]] - scores[pairs[p][1]]) for p in usable}
        cost = {p: -((1 - weight) * (1 - similarity[pairs[p]]) + weight * gap[p] / widest) for p in usable}
        tolerance = 1e-9
    tied = [p for p in cost if cost[p] <= min(cost.values()) + tolerance]
    return min(tied, key=lambda p: (similarity[pairs[p]], p), default=-1)


CASES = [
    ("easy", {}),
    ("hard", {}),
    ("centroid", {}),
    ("aepo", {}),
    ("aepo", {"lambda_": 0}),
    ("aepo", {"lambda_": 2.5}),
    ("max_min", {}),
    ("divpo", {}),
    ("divpo", {"threshold": 4.0}),
    ("dissimilar_gap", {}),
    ("dissimilar_gap", {"gap_weight": 0.8}),
    ("chain", {}),
]


@pytest.mark.parametrize("k", range(2, 17))
@pytest.mark.parametrize(("strategy", "options"), CASES, ids=str)
def test_picks_are_those_of_brute_force(strategy, options, k):
    rng = np.random.default_rng(k)
    n = 200 if k < 10 else 40
    vectors, similarity = similarities(rng, n, k)
    scores = rng.integers(0, 9, (n, k)).astype(float)
    first, second = np.triu_indices(k, 1)
    eligible = (rng.random((n, len(first))) < 0.7) & (scores[:, first] != scores[:, second])
    picks = pick_pairs(strategy, similarity, eligible, scores=scores, **options)[:, 0]
    prompts = zip(vectors, similarity, scores, eligible, strict=True)
    assert picks.tolist() == [oracle(strategy, *prompt, **options) for prompt in prompts]


@pytest.mark.parametrize(
    ("strategy", "options", "same"),
    [
        ("aepo", {"lambda_": 1e6}, "easy"),
        ("dissimilar_gap", {"gap_weight": 0}, "easy"),
        ("dissimilar_gap", {"gap_weight": 1}, "max_min"),
    ],
)
def test_an_option_at_its_end_is_another_strategy(strategy, options, same):
    rng = np.random.default_rng(0)
    _, similarity = similarities(rng, 300, 6)
    scores = rng.standard_normal((300, 6))
    found, expected = (
        pick_pairs(name, similarity, np.ones((300, 15), bool), scores=scores, **kwargs)
        for name, kwargs in ((strategy, options), (same, {}))
    )
    assert (found == expected).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_response_is_in_no_more_pairs_than_allowed(strategy, limit):
    """The pairs are those of all pairs in order, without the pairs of a response that is already in enough of them."""
    rng = np.random.default_rng(limit)
    n, k, most = 60, 6, 7
    _, similarity = similarities(rng, n, k)
    scores = rng.integers(0, 9, (n, k)).astype(float)
    sides = np.column_stack(np.triu_indices(k, 1))
    eligible = (rng.random((n, len(sides))) < 0.8) & (scores[:, sides[:, 0]] != scores[:, sides[:, 1]])
    inputs = {"scores": scores, "seeds": rng.integers(2**63, size=n, dtype=np.uint64)}
    in_order = pick_pairs(strategy, similarity, eligible, len(sides), **inputs)
    found = pick_pairs(strategy, similarity, eligible, most, limit, **inputs)
    for pairs, picks in zip(in_order.tolist(), found.tolist(), strict=True):
        expected, used = [], np.zeros(k, int)
        for pair in pairs:
            if pair >= 0 and len(expected) < most and (used[sides[pair]] < limit).all():
                used[sides[pair]] += 1
                expected.append(pair)
        assert picks == expected + [-1] * (most - len(expected))


def test_a_chain_has_each_neighbor_once():
    rng = np.random.default_rng(0)
    scores = rng.permuted(np.tile(np.arange(5.0), (50, 1)), axis=1)
    picks = pick_pairs("chain", np.zeros((50, 5, 5)), np.ones((50, 10), bool), 10, scores=scores)
    sides = np.column_stack(np.triu_indices(5, 1))
    for row, pairs in zip(scores, picks, strict=True):
        found = {tuple(sorted(row[sides[pair]])) for pair in pairs if pair >= 0}
        assert found == {(0, 1), (1, 2), (2, 3), (3, 4)}
        assert (pairs >= 0).sum() == 4


def test_infinite_scores():
    scores = np.array([[np.inf, 1.0, 0.0], [-np.inf, 5.0, np.inf]])
    similarity = np.broadcast_to(np.eye(3), (2, 3, 3))
    assert pick_pairs("max_min", similarity, np.ones((2, 3), bool), scores=scores)[:, 0].tolist() == [0, 0]
    assert (pick_pairs("dissimilar_gap", similarity, np.ones((2, 3), bool), scores=scores) >= 0).all()
    assert pick_pairs("chain", similarity, np.ones((2, 3), bool), 3, scores=scores).tolist() == [
        [0, 2, -1],
        [0, 2, -1],
    ]


@pytest.mark.parametrize(
    ("strategy", "options", "message"),
    [
        ("best", {}, "`strategy` must be one of ['easy', 'hard', 'centroid', 'random', 'aepo', 'max_min', 'divpo', "),
        ("easy", {"lambda_": 1}, "`strategy_kwargs` for strategy 'easy' may hold nothing, got ['lambda_']."),
        ("aepo", {"threshold": 1}, "`strategy_kwargs` for strategy 'aepo' may hold ['lambda_'], got ['threshold']."),
        ("aepo", {"lambda_": -1}, "`strategy_kwargs['lambda_']` must be a number from 0 to inf, got -1."),
        ("aepo", {"lambda_": math.inf}, "`strategy_kwargs['lambda_']` must be a number from 0 to inf, got inf."),
        (
            "divpo",
            {"threshold": math.nan},
            "`strategy_kwargs['threshold']` must be a number from -inf to inf, got nan.",
        ),
        (
            "dissimilar_gap",
            {"gap_weight": "1"},
            "`strategy_kwargs['gap_weight']` must be a number from 0 to 1, got '1'.",
        ),
    ],
)
def test_wrong_options_are_named(strategy, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_strategy(strategy, options)


def test_centroid_of_a_cluster_of_two_goes_to_the_less_similar_pair():
    # Two close vectors against one: both are equally far from their mean.
    angles = np.array([0.0, 0.2, 2.0])
    similarity = np.cos(angles[:, None] - angles)[None]
    assert pick_pairs("centroid", similarity, np.ones((1, 3), bool))[0, 0] == 1  # (0, 2), the wider angle


def test_exact_ties_go_to_the_first_pair():
    similarity = np.ones((1, 4, 4))
    for strategy in ("easy", "hard"):
        assert pick_pairs(strategy, similarity, np.array([[False, True, True, True, True, True]]))[0, 0] == 1


def inputs(rng, n, k):
    _, similarity = similarities(rng, n, k)
    return {
        "similarity": similarity,
        "eligible": rng.random((n, k * (k - 1) // 2)) < 0.7,
        "scores": rng.standard_normal((n, k)),
        "seeds": rng.integers(0, 2**63, n).astype(np.uint64),
    }


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_several_pairs_come_best_first_without_repeats(strategy):
    prompts = inputs(np.random.default_rng(3), 50, 5)
    several = pick_pairs(strategy, **prompts, pairs_per_prompt=20)
    assert several.shape == (50, 10)
    assert (several[:, 0] == pick_pairs(strategy, **prompts)[:, 0]).all()
    for row, allowed in zip(several, prompts["eligible"], strict=True):
        found = row[row >= 0].tolist()
        assert len(set(found)) == len(found)
        assert set(found) <= set(np.flatnonzero(allowed).tolist())
        if strategy not in (
            "centroid",
            "divpo",
            "chain",
        ):  # which leave out pairs within a cluster, on one side, or apart
            assert len(found) == allowed.sum()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("k", [3, 8, 13, 17])
def test_a_prompt_is_picked_from_alone_as_in_a_batch(strategy, k, monkeypatch):
    prompts = inputs(np.random.default_rng(k), 40, k)
    similarity = prompts["similarity"]
    similarity[::4, 1] = similarity[::4, 0]  # equal embeddings
    similarity[::4, :, 1] = similarity[::4, :, 0]
    similarity[::4, 1, 1] = 1
    together = pick_pairs(strategy, **prompts, pairs_per_prompt=2)
    alone = [
        pick_pairs(strategy, **{name: array[i : i + 1] for name, array in prompts.items()}, pairs_per_prompt=2)
        for i in range(40)
    ]
    assert (together == np.concatenate(alone)).all()
    monkeypatch.setattr(strategies, "MAX_COSTS", 1)
    assert (together == pick_pairs(strategy, **prompts, pairs_per_prompt=2)).all()


def test_random_is_uniform():
    n, k = 20_000, 4
    seeds = np.arange(n, dtype=np.uint64)
    picks = pick_pairs("random", np.full((n, k, k), np.nan), np.ones((n, 6), bool), seeds=seeds)[:, 0]
    counts = np.bincount(picks, minlength=6)
    assert abs(counts - n / 6).max() < 5 * np.sqrt(n / 6)


def test_500_responses():
    _, similarity = similarities(np.random.default_rng(0), 2, 500)
    eligible = np.ones((2, 500 * 499 // 2), bool)
    first, second = np.triu_indices(500, 1)
    pick = pick_pairs("easy", similarity, eligible)[:, 0]
    assert (similarity[:, first, second].min(1) == similarity[[0, 1], first[pick], second[pick]]).all()
    assert (pick_pairs("centroid", similarity, eligible) >= 0).all()

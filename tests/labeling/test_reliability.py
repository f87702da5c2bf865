import json
import re

import numpy as np
import pytest
from conftest import candidate_rows, read_data
from datasets import Dataset

from trl_real import (
    RealDPOConfig,
    ReliabilityReport,
    apply_labels,
    embed_responses,
    label_reliability,
    real_select,
)
from trl_real.labeling.label_log import append_decision
from trl_real.labeling.label_noise import Estimate, cross_fit, flip_rates, wrong_majority
from trl_real.labeling.reliability import ReliabilityBin


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def planted(rng, n, dim, rate, n_labels=1):
    """Pairs of responses of a prompt, labeled by a linear reward, of which a share (by similarity) is flipped."""
    middle, apart = rng.standard_normal((n, 1, dim)), rng.uniform(0.2, 1.5, (n, 1, 1))
    vectors = unit(middle + apart * rng.standard_normal((n, 2, dim)))
    similarity = (vectors[:, 0] * vectors[:, 1]).sum(1)
    better_first = (vectors[:, 0] - vectors[:, 1]) @ rng.standard_normal(dim) > 0
    errors = rng.random((n, n_labels)) < np.broadcast_to(rate(similarity), (n,))[:, None]
    wrong = errors.sum(1) > n_labels / 2
    turned = better_first == wrong
    vectors[turned] = vectors[turned, ::-1]
    n_for = np.where(wrong, errors.sum(1), n_labels - errors.sum(1))
    return vectors, similarity, wrong, n_for


def as_pairs(vectors, **columns):
    n = len(vectors)
    rows = {"prompt": [f"question {i}" for i in range(n)], "chosen": ["a"] * n, "rejected": ["b"] * n}
    return Dataset.from_dict({**rows, "embeddings": vectors.astype(np.float32), **columns})


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "n", "dim"), [(0.05, 500, 8), (0.2, 800, 16), (0.3, 800, 8)])
def test_a_planted_flip_rate_is_in_the_interval_of_95_percent(rate, n, dim):
    found = []
    for seed in range(50):
        vectors, *_ = planted(np.random.default_rng(seed), n, dim, lambda similarity: rate)
        found.append(label_reliability(as_pairs(vectors)).flip_rate)
    assert sum(estimate.low <= rate <= estimate.high for estimate in found) >= 45
    assert abs(np.mean([estimate.value for estimate in found]) - rate) < 0.03
    assert np.mean([estimate.high - estimate.low for estimate in found]) < 0.25  # an interval that says something


@pytest.mark.slow
def test_a_flip_rate_that_grows_with_similarity_is_found_where_it_is():
    rates, covered, mean_covered = np.array([0.05, 0.05, 0.05, 0.3]), [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        vectors, *_ = planted(rng, 1200, 8, lambda s: np.where(s > np.quantile(s, 0.75), 0.3, 0.05))
        report = label_reliability(as_pairs(vectors))
        covered += [
            row.flip_rate.low <= rate <= row.flip_rate.high for row, rate in zip(report.bins, rates, strict=True)
        ]
        mean_covered.append(report.flip_rate.low <= rates.mean() <= report.flip_rate.high)
        assert report.p_flip_rate < 0.05
        assert "The estimated shares of wrong labels differ: " in report.verdict
        assert report.bins[0].flip_rate.value < report.bins[3].flip_rate.low
    assert np.mean(covered) >= 0.9
    assert np.mean(mean_covered) >= 0.9


def test_several_annotators_narrow_the_interval(rng):
    vectors, _, wrong, n_for = planted(rng, 600, 16, lambda similarity: 0.2, n_labels=3)
    columns = {"label_agreement": n_for / 3, "n_labels": [3] * 600}
    one, three = label_reliability(as_pairs(vectors)), label_reliability(as_pairs(vectors, **columns))
    assert three.flip_rate.low <= wrong.mean() <= three.flip_rate.high
    assert three.flip_rate.high - three.flip_rate.low < one.flip_rate.high - one.flip_rate.low
    means = [row.label_agreement for row in three.bins]
    assert np.mean(means) == pytest.approx(np.mean(n_for) / 3)
    assert "annotators agree" in str(three)
    assert all(row.label_agreement is None for row in one.bins)


def test_a_majority_is_wrong_less_often_than_an_annotator():
    weight = np.ones(1)
    assert wrong_majority(0.2, np.array([[1, 1]]), weight) == pytest.approx(0.2)
    assert wrong_majority(0.2, np.array([[3, 3]]), weight) == pytest.approx(0.2**3 / (0.2**3 + 0.8**3))
    assert wrong_majority(0.2, np.array([[2, 3]]), weight) == pytest.approx(0.2)
    assert wrong_majority(0.0, np.array([[2, 3]]), weight) == 0.0


def test_labels_at_random_are_called_unpredictable(rng):
    vectors, *_ = planted(rng, 400, 8, lambda similarity: 0.5)
    report = label_reliability(as_pairs(vectors))
    assert report.flip_rate.high > 0.45
    assert report.verdict.startswith("The embeddings predict these labels no better than chance")


def report_of(agreement, flip_rates=(0.1, 0.1, 0.1, 0.1), p_agreement=0.001, p_flip_rate=0.5, n=1000):
    bins = [
        ReliabilityBin(i / 4, (i + 1) / 4, n, Estimate(a, a - 0.03, a + 0.03), Estimate(f, f / 2, f * 2))
        for i, (a, f) in enumerate(zip(agreement, flip_rates, strict=False))
    ]
    overall = Estimate(0.7, 0.68, 0.72), Estimate(0.1, 0.05, 0.2)
    return ReliabilityReport(4 * n, 4 * n, "some/model", *overall, p_agreement, p_flip_rate, bins)


@pytest.mark.parametrize(
    ("report", "verdict"),
    [
        (
            report_of([0.7, 0.7, 0.7, 0.7], p_agreement=0.9),
            "Labels of dissimilar pairs are not significantly easier to predict than those of similar pairs. A sample of this "
            "size cannot show a difference of less than 6%.",
        ),
        (
            report_of([0.7, 0.7, 0.7, 0.7], (0.02, 0.1, 0.2, 0.3), p_agreement=0.3, p_flip_rate=0.001),
            "Labels of dissimilar pairs are not significantly easier to predict than those of similar pairs. A sample of this "
            "size cannot show a difference of less than 6%. The estimated shares of wrong labels differ: 2%, 10%, 20%, 30%, "
            "from dissimilar to similar pairs.",
        ),
        (
            report_of([0.8, 0.7, 0.65, 0.6]),
            "Labels of dissimilar pairs are easier to predict than those of similar pairs. The reason may not be wrong labels: "
            "the estimated shares of wrong labels do not differ significantly.",
        ),
        (
            report_of([0.6, 0.65, 0.7, 0.8], (0.3, 0.1, 0.1, 0.1), p_flip_rate=0.01),
            "Labels of similar pairs are easier to predict than those of dissimilar pairs. The estimated shares of wrong labels "
            "differ: 30%, 10%, 10%, 10%, from dissimilar to similar pairs.",
        ),
        (
            report_of([0.8, 0.6, 0.6, 0.79]),
            "The bins differ in how easy their labels are to predict, but without a trend from dissimilar to similar pairs. The "
            "reason may not be wrong labels: the estimated shares of wrong labels do not differ significantly.",
        ),
        (report_of([0.7], p_agreement=1.0, p_flip_rate=1.0), ""),
    ],
)
def test_the_verdict_says_what_the_numbers_say(report, verdict):
    assert report.verdict == verdict
    assert str(report).endswith(verdict)


def test_a_small_sample_is_called_small(rng):
    vectors, *_ = planted(rng, 99, 8, lambda similarity: 0.1)
    verdict = label_reliability(as_pairs(vectors)).verdict
    assert verdict == "Too small a sample: 99 prompts. Label at least 100 before you conclude anything."


def test_pairs_that_say_nothing_are_counted_and_left_out(rng):
    vectors, *_ = planted(rng, 150, 8, lambda similarity: 0.1)
    data = as_pairs(vectors).to_dict()
    data["rejected"][:10], data["chosen"][10:15] = ["a "] * 10, [None] * 5
    report = label_reliability(Dataset.from_dict(data))
    assert (report.pairs, report.skipped) == (135, {"duplicate_responses": 10, "missing_response": 5})


def test_two_vectors_beside_two_responses_are_not_taken_the_wrong_way_round(rng, embedder):
    pairs = Dataset.from_list(candidate_rows(rng, 120, (2, 2))).map(
        real_select, batched=True, fn_kwargs={"embedder": embedder}
    )
    options = {"batched": True, "fn_kwargs": {"embedder": embedder}}
    expected = label_reliability(pairs.remove_columns("responses").map(embed_responses, **options))
    assert str(label_reliability(pairs.map(embed_responses, **options), embedder=embedder)) == str(expected)


@pytest.mark.parametrize(
    "columns",
    [
        {"label_agreement": [None] * 150, "n_labels": [None] * 150},
        {"label_agreement": [1.0] * 150, "n_labels": [0] * 150},
        {"label_agreement": [0.5] * 150, "n_labels": [2] * 150},
    ],
)
def test_votes_that_nobody_cast_count_as_one(columns, rng):
    vectors, *_ = planted(rng, 150, 8, lambda similarity: 0.1)
    found, expected = label_reliability(as_pairs(vectors, **columns)), label_reliability(as_pairs(vectors))
    assert found.flip_rate == expected.flip_rate


def test_hundreds_of_annotators(rng):
    vectors, *_ = planted(rng, 150, 8, lambda similarity: 0.0)
    votes = {"label_agreement": [0.6] * 150, "n_labels": [5000] * 150}
    assert label_reliability(as_pairs(vectors, **votes)).flip_rate.value == 0  # each may err, the majority does not


def test_the_likelihood_is_that_of_its_definition(rng):
    # One bin, scores that say nothing: the rate that three annotators show by disagreeing.
    n_for = np.array([3] * 70 + [2] * 30)
    score, spread = np.zeros(100), np.ones(100)
    rate, _, p_value = flip_rates(
        score, spread, np.column_stack([n_for, np.full(100, 3)]), np.ones(100), np.zeros(100, int)
    )
    grid = np.linspace(0.001, 0.499, 999)
    likelihood = 70 * np.log((1 - grid) ** 3 + grid**3) + 30 * np.log((1 - grid) ** 2 * grid + grid**2 * (1 - grid))
    assert rate.value == pytest.approx(grid[likelihood.argmax()], abs=0.01)
    inside = grid[2 * (likelihood.max() - likelihood) <= 5.41]
    assert (rate.low, rate.high) == pytest.approx((inside[0], inside[-1]), abs=0.01)
    assert p_value == 1.0


def test_the_model_has_not_seen_the_prompt_it_is_asked_about(rng):
    difference, groups = rng.standard_normal((200, 300)), np.repeat(np.arange(50), 4)
    score, spread = cross_fit(difference, groups, seed=0)
    assert 0.35 < (score > 0).mean() < 0.65  # in the sample, 300 dimensions would tell all of 200 pairs
    difference[1::4] = difference[::4] = difference[2::4] = difference[3::4]
    assert 0.3 < (cross_fit(difference, groups, seed=0)[0] > 0).mean() < 0.7
    assert (spread >= 0).all()


def test_candidates_given_pairs_and_labels_of_people_are_read(rng, embedder):
    data = Dataset.from_list(candidate_rows(rng, 120, (3, 4)))
    report = label_reliability(data, embedder=embedder)
    assert (report.prompts, report.embedder) == (120 - sum(report.skipped.values()), "HashEmbedder")
    n_pairs = len(data.map(real_select, batched=True, fn_kwargs={"strategy": "random", "pairs_per_prompt": 5}))
    assert report.pairs == n_pairs == sum(row.pairs for row in report.bins)
    assert json.loads(json.dumps(report.to_dict()))["pairs"] == n_pairs

    pairs = data.map(real_select, batched=True, fn_kwargs={"embedder": embedder})
    for given in (pairs, pairs.select_columns(["prompt", "chosen", "rejected"])):
        assert label_reliability(given, embedder=embedder).pairs == len(pairs)
    embedded = data.map(embed_responses, batched=True, fn_kwargs={"embedder": embedder})
    kept = embedded.map(real_select, batched=True)  # with the embeddings of all responses
    same = [label_reliability(given, embedder=embedder) for given in (kept, pairs)]
    assert str(same[0]) == str(same[1])
    assert same[0].embedder == "column `embeddings`"

    unlabeled = data.remove_columns("scores").map(real_select, batched=True, fn_kwargs={"embedder": embedder})
    records = [{"pair_id": name, "label": "a", "annotator": who} for name in unlabeled["pair_id"] for who in "xyz"]
    labeled = apply_labels(unlabeled, records)
    assert label_reliability(labeled, embedder=embedder).bins[0].label_agreement == 1.0


def test_the_rate_is_a_label_smoothing_of_the_robust_loss(rng, tmp_path):
    vectors, *_ = planted(rng, 200, 8, lambda similarity: 0.2)
    rate = label_reliability(as_pairs(vectors)).flip_rate.value
    config = RealDPOConfig(
        output_dir=str(tmp_path), loss_type="robust", label_smoothing=rate, bf16=False, use_cpu=True
    )
    assert 0 <= config.label_smoothing < 0.5


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        ([], {}, TypeError, "`label_reliability` needs a `datasets.Dataset`, got list."),
        ("pairs", {"bins": 0}, ValueError, "`bins` must be a whole number of at least 1, got 0."),
        ("pairs", {"seed": -1}, ValueError, "`seed` must be a whole number of at least 0, got -1."),
        (
            "pairs",
            {},
            ValueError,
            "needs labeled pairs of at least 20 prompts, and of 100 for a conclusion. Found 5 pairs of 5 prompts. Skipped rows",
        ),
        (
            "unlabeled",
            {},
            ValueError,
            "`label_reliability` needs labels: `chosen` and `rejected`, or `responses` and `sco",
        ),
    ],
)
def test_wrong_input_is_named(data, options, error, message, rng, embedder):
    if data == "pairs":
        data = as_pairs(rng.standard_normal((5, 2, 4)))
    elif data == "unlabeled":
        data = Dataset.from_list(candidate_rows(rng, 30, scores=False))
    with pytest.raises(error, match=re.escape(message)):
        label_reliability(data, embedder=embedder, **options)
    assert not embedder.calls


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hh_rlhf_harmless.jsonl.gz", "alpaca_eval_candidates.jsonl.gz"])
def test_reports_on_real_text(name):
    rows = [
        {key: row[key] for key in ("prompt", "responses", "scores", "chosen", "rejected") if key in row}
        for row in read_data(name)[:300]
    ]
    report = label_reliability(Dataset.from_list(rows), embedder_max_length=32)
    assert len(report.bins) == 4
    assert report.agreement.low > 0.5
    for estimate in (report.flip_rate, *(row.flip_rate for row in report.bins)):
        assert isinstance(estimate, Estimate)
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 0.5
    assert report.verdict in str(report)


def test_unlabeled_pairs_take_their_labels_along(rng, tmp_path):
    """A label log beside unlabeled pairs says the same as the preferences that are made of both."""
    vectors = rng.normal(size=(60, 2, 4))
    pairs = Dataset.from_dict(
        {
            "pair_id": [f"{i}" for i in range(60)],
            "prompt": [f"question {i}" for i in range(60)],
            "response_a": [f"one {i}" for i in range(60)],
            "response_b": [f"two {i}" for i in range(60)],
            "embeddings": vectors.tolist(),
        }
    )
    better = vectors[:, 0, 0] > vectors[:, 1, 0]
    for pair, first in zip(pairs["pair_id"], better, strict=True):
        append_decision(tmp_path / "labels.jsonl", {"pair_id": pair, "label": "a" if first else "b"})
    report = label_reliability(pairs, tmp_path / "labels.jsonl")
    assert report == label_reliability(apply_labels(pairs, tmp_path / "labels.jsonl"))
    assert report.agreement.low > 0.7

"""The preference model against models that are fit by brute force."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import multivariate_normal

from trl_real.labeling import preference_model
from trl_real.labeling.preference_model import (
    PRIOR_PRECISION,
    JudgedPairs,
    chance,
    fit,
    prior_precision,
    without_labels,
)


@pytest.fixture
def labeled(rng):
    """Differences, shares and counts of labels that follow a linear model."""
    difference = rng.normal(size=(120, 6)) / np.sqrt(6)
    count = rng.integers(1, 4, 120).astype(float)
    return difference, rng.binomial(count.astype(int), expit(difference @ rng.normal(scale=2, size=6))) / count, count


def test_weights_are_the_most_likely_ones(labeled):
    difference, share, count = labeled

    def less_likely(weights):
        logits = difference @ weights
        return -(count * (share * logits - np.logaddexp(0, logits))).sum() + 0.7 / 2 * weights @ weights

    model = fit(difference, share, count, 0.7)
    best = minimize(less_likely, np.zeros(6), tol=1e-12)
    np.testing.assert_allclose(model.weights, best.x, atol=1e-5)
    steps = 1e-3 * np.eye(6)
    curvature = [[second_difference(less_likely, model.weights, one, other) for one in steps] for other in steps]
    np.testing.assert_allclose(model.covariance @ curvature, np.eye(6), atol=1e-4)
    assert less_likely(model.weights) <= best.fun + 1e-12


def second_difference(function, at, one, other):
    """The second derivative in two directions, whose lengths are the steps."""
    around = (
        function(at + one + other)
        - function(at + one - other)
        - function(at - one + other)
        + function(at - one - other)
    )
    return around / (4 * np.linalg.norm(one) * np.linalg.norm(other))


def test_the_prior_has_the_greatest_evidence(labeled):
    """At weights of zero a label is a measurement of the log-odds, 4 * (share - 0.5), with a variance of 4 / count."""
    difference, share, count = labeled

    def evidence(precision):
        covariance = difference @ difference.T / precision + np.diag(4 / count)
        of_labels = multivariate_normal(np.zeros(len(count)), covariance).logpdf(4 * (share - 0.5))
        return of_labels - np.log(precision / PRIOR_PRECISION) ** 2 / 2

    found = prior_precision(difference, share, count)
    tried = np.geomspace(0.02, 50, 400)
    best = tried[np.argmax([evidence(precision) for precision in tried])]
    assert found == pytest.approx(best, rel=0.03)


def test_before_there_are_labels_there_is_the_prior():
    none = fit(np.zeros((0, 3)), np.zeros(0), np.zeros(0))
    prior = without_labels(3)
    np.testing.assert_allclose(none.weights, 0)
    np.testing.assert_allclose(none.covariance, prior.covariance, rtol=1e-3)


def test_a_prompt_is_judged_without_its_own_labels(labeled, rng):
    difference, share, count = labeled
    groups = rng.integers(0, 60, len(count))
    model = fit(difference, share, count, 4.0)
    found = chance(*JudgedPairs(difference, share, count, groups).unseen(model))
    seen = model.chances(difference)
    expected = np.empty_like(found)
    for group in np.unique(groups):
        own = groups == group
        expected[own] = fit(difference[~own], share[~own], count[~own], 4.0).chances(difference[own])
    assert np.abs(found - expected).max() < 0.1 * np.abs(seen - expected).max()


def test_chances_are_the_mean_over_the_weights(rng):
    drawn = rng.normal(0.8, np.sqrt(1.7), 200_000)
    assert chance(np.array([0.8]), np.array([1.7]))[0] == pytest.approx(expit(drawn).mean(), abs=5e-3)


def test_the_expected_gain_is_what_simulated_labels_add(rng):
    """Weights are drawn, labels are drawn by them, and the model is fit anew, many times."""
    difference = rng.normal(size=(400, 5)) / np.sqrt(5)
    start, others, judged = difference[:40], difference[40:140], difference[140:]
    truth = rng.normal(scale=1.5, size=5)
    model = fit(start, (rng.random(40) < expit(start @ truth)).astype(float), np.ones(40), 0.5)
    gains = []
    for _ in range(1500):
        weights = rng.multivariate_normal(model.weights, model.covariance)
        labels = (rng.random(100) < expit(others @ weights)).astype(float)
        total = 4 * (others.T * (p := expit(others @ model.weights)) * (1 - p)) @ others / 4
        curvature = np.linalg.inv(model.covariance) + total
        moved = model.weights + np.linalg.solve(curvature, others.T @ (labels - p))
        chances = expit(judged @ weights)
        right = np.where(judged @ moved > 0, chances, 1 - chances).mean()
        gains.append(right - np.where(judged @ model.weights > 0, chances, 1 - chances).mean())
    found = gain(model, start, judged, 100)
    assert found == pytest.approx(np.mean(gains), abs=4 * np.std(gains) / np.sqrt(len(gains)) + 0.003)
    assert found > 0.005


def gain(model, labeled, rest, n, n_rest=None, prompts=None):
    """What labels of `n` of the rest are expected to add; labels that are there say nothing here."""
    difference, count = np.concatenate([labeled, rest]), np.repeat([1.0, 0.0], [len(labeled), len(rest)])
    prompts = np.arange(len(difference)) if prompts is None else prompts
    share = np.where(count > 0, expit(model.logits(difference)), 0.5)
    return JudgedPairs(difference, share, count, prompts).expected_gain(model, n, n_rest or len(rest))


def test_more_labels_add_more(labeled, rng):
    model, seen, rest = fit(*labeled), labeled[0], rng.normal(size=(200, 6)) / np.sqrt(6)
    gains = [gain(model, seen, rest, n) for n in (0, 10, 50, 200, 1000)]
    assert gains[0] == pytest.approx(0, abs=1e-12)
    assert gains[0] < gains[1] < gains[2] < gains[3] == gains[4]
    assert gain(model, seen, rest[:0], 10, 1) == 0.0


def test_a_sample_of_the_rest_stands_for_all(labeled, rng):
    model, seen, rest = fit(*labeled), labeled[0], rng.normal(size=(4000, 6)) / np.sqrt(6)
    assert gain(model, seen, rest[:2000], 300, 4000) == pytest.approx(gain(model, seen, rest, 300), rel=0.1)


def test_a_prompt_is_judged_without_labels_to_come(labeled, rng):
    """Pairs that are alike, as those of a prompt are, tell about one another: that counts only across prompts."""
    model, seen = fit(*labeled), labeled[0]
    rest = np.repeat(rng.normal(size=(20, 6)), 5, axis=0)
    apart = np.arange(len(seen) + 100)
    together = np.concatenate([apart[: len(seen)], len(seen) + np.repeat(np.arange(20), 5)])
    assert gain(model, seen, rest, 100, prompts=together) < gain(model, seen, rest, 100, prompts=apart)


def test_nodes_integrate_a_normal_variable():
    nodes, weights = preference_model.NODES, preference_model.WEIGHTS
    assert (weights @ nodes**2, weights @ nodes**4) == pytest.approx((1, 3))

"""
Estimate the share of wrong labels. A model predicts preferences from the embeddings. If it is confident, labels that disagree
are assumed to be flipped.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, ndtr, xlog1py, xlogy
from scipy.stats import binom, binomtest, chi2
from sklearn.linear_model import BayesianRidge
from sklearn.model_selection import GroupKFold


FOLDS = 10
# Grid of flip rates, dense near 0, and the step of the grid of their means over the bins.
FLIP_RATES = 0.5 * np.linspace(0, 1, 152)[:-1] ** 2
MEAN_STEP = 0.0005
# The probability that a response is better, as a function of its score: normal or logistic (Bradley-Terry).
LINKS = (ndtr, lambda x: expit(1.702 * x))
# The 98% quantile: in simulations, 95% of the intervals then contain the true rate, although the scores are estimates, too.
CUT = float(chi2.ppf(0.98, 1))
# If the bins differ at this level, the overall interval also covers the mean of their individual rates.
DIFFER = 0.2


@dataclass
class Estimate:
    """
    An estimate with its 95% confidence interval.

    Attributes:
        value (`float`): The estimate.
        low (`float`): The lower end of the interval.
        high (`float`): The upper end of the interval.
    """

    value: float
    low: float
    high: float


def share_estimate(n_for: float, n_against: float) -> Estimate:
    """A share with its Wilson interval. Weighted counts are rounded down to whole prompts."""
    n = max(int(n_for + n_against + 1e-9), 1)
    test = binomtest(min(round(n * n_for / (n_for + n_against)), n), n)
    interval = test.proportion_ci(method="wilson")
    return Estimate(float(n_for / (n_for + n_against)), float(interval.low), float(interval.high))


def cross_fit(difference: np.ndarray, groups: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Predict which side of each pair is better, with a linear model of the embeddings that has not seen the prompt.

    Args:
        difference (`np.ndarray` of shape `(n, dim)`): Embedding of chosen minus that of rejected.
        groups (`np.ndarray` of shape `(n,)`): The prompt of each pair as a number.
        seed (`int`): Seed of the folds.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: The score of each pair, positive if the model agrees with the label, and the standard
        deviation of the score, both `(n,)`. The model is a regression of 1 on the difference without intercept, so its result
        does not depend on which side is first.
    """
    score, spread = np.zeros((2, len(groups)))
    folds = GroupKFold(min(FOLDS, len(np.unique(groups))), shuffle=True, random_state=seed)
    for train, test in folds.split(difference, groups=groups):
        model = BayesianRidge(fit_intercept=False).fit(difference[train], np.ones(len(train)))
        score[test], total = model.predict(difference[test], return_std=True)
        spread[test] = np.sqrt(np.maximum(total**2 - 1 / model.alpha_, 0.0))
    return score, spread


def flip_rates(
    score: np.ndarray, spread: np.ndarray, votes: np.ndarray, weight: np.ndarray, bins: np.ndarray
) -> tuple[Estimate, list[Estimate], float]:
    """
    Estimate how often a label is flipped.

    In the model, the labeled side is better with the probability `link(slope * score)`. Each annotator gives the opposite answer
    with the probability `rate`, and the majority decides. Slope and link are unknown, too. An interval contains all rates whose
    profile likelihood is close to the maximum.

    Args:
        score, spread (`np.ndarray` of shape `(n,)`): From [`cross_fit`].
        votes (`np.ndarray` of shape `(n, 2)`): The number of annotators who prefer the chosen side, and of all annotators.
        weight (`np.ndarray` of shape `(n,)`): The weight of each pair.
        bins (`np.ndarray` of shape `(n,)`): The bin of each pair. Each bin has its own rate.

    Returns:
        `tuple[Estimate, list[Estimate], float]`: The overall rate, the rate of each bin, and the p-value of a likelihood-ratio
        test of the hypothesis that all bins have the same rate.
    """
    n_bins = int(bins.max()) + 1
    share = np.bincount(bins, weight) / weight.sum()
    common, own, mean = (
        np.full(shape, -np.inf) for shape in (len(FLIP_RATES), (n_bins, len(FLIP_RATES)), _n_means(n_bins))
    )
    for likelihood in _likelihoods(score, spread, votes, weight, bins):  # (n_slopes, n_rates, n_bins)
        best = likelihood.max(1)  # (n_slopes, n_bins)
        common = np.maximum(common, likelihood.sum(2).max(0))
        others = best.sum(1, keepdims=True) - best
        own = np.maximum(own, (likelihood + others[:, None]).max(0).T)
        mean = np.maximum(mean, _profile_of_mean(likelihood, share))
    p_value = float(chi2.sf(2 * (own.max() - common.max()), n_bins - 1)) if n_bins > 1 else 1.0
    overall = _interval(FLIP_RATES, common)
    if p_value < DIFFER:
        of_mean = _interval(np.arange(len(mean)) * MEAN_STEP, mean)
        overall = Estimate(of_mean.value, min(overall.low, of_mean.low), max(overall.high, of_mean.high))
    return overall, [_interval(FLIP_RATES, profile) for profile in own], p_value


def _likelihoods(
    score: np.ndarray, spread: np.ndarray, votes: np.ndarray, weight: np.ndarray, bins: np.ndarray
) -> Iterator[np.ndarray]:
    """The log-likelihood of each slope, rate and bin, for each link, with and without the spread of the scores."""
    kinds, kind = np.unique(votes, axis=0, return_inverse=True)
    typical = np.sqrt((spread**2).mean()) + 1e-12
    for z in (score / typical, score / np.maximum(spread, 1e-4 * typical)):
        # Nearly equal scores are counted together, so that the cost does not grow with the number of pairs.
        unit = max(float(np.median(np.abs(z))), 1e-12) / 5
        cells, cell = np.unique(np.round(np.arcsinh(z / unit) / 0.02), return_inverse=True)
        counts = np.zeros((len(kinds), int(bins.max()) + 1, len(cells)))
        np.add.at(counts, (kind.ravel(), bins, cell), weight)
        scores = np.sinh(cells * 0.02) * unit
        for link in LINKS:
            slopes = np.geomspace(0.01, 300, 46)
            rough = _likelihood(link(slopes[:, None] * scores), kinds, counts).max(1).sum(1)
            near = np.flatnonzero(rough > rough.max() - 25)
            slopes = np.geomspace(slopes[max(near[0] - 1, 0)], slopes[min(near[-1] + 1, 45)], 61)
            yield _likelihood(link(slopes[:, None] * scores), kinds, counts)


def _likelihood(better: np.ndarray, kinds: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """
    The log-likelihood of the votes, `(n_slopes, n_rates, n_bins)`. `better`, `(n_slopes, n_cells)`, is the probability that the
    labeled side is better. `counts`, `(n_kinds, n_bins, n_cells)`, is the number of votes of each kind.
    """
    total = np.zeros((len(better), len(FLIP_RATES), counts.shape[1]))
    for (n_for, n), count in zip(kinds.tolist(), counts, strict=True):
        cast = count.sum(1)  # (n_bins,)
        for e, rate in enumerate(FLIP_RATES):
            wrong_to_right = (rate / (1 - rate)) ** (2 * n_for - n)
            chance = better + wrong_to_right * (1 - better)
            # An even number of annotators can be split in halves. Such pairs have no label and are not observed.
            tied = 0.0 if n % 2 else binom.pmf(n // 2, n, rate)
            constant = xlog1py(n_for, -rate) + xlogy(n - n_for, rate) - np.log1p(-tied)
            total[:, e] += np.log(np.maximum(chance, 1e-300)) @ count.T + np.where(cast > 0, constant * cast, 0.0)
    return total


def _n_means(n_bins: int) -> int:
    """The number of grid points for the mean: up to 0.5, plus one step per bin for rounding."""
    return round(0.5 / MEAN_STEP) + n_bins + 1


def _profile_of_mean(likelihood: np.ndarray, share: np.ndarray) -> np.ndarray:
    """For each mean of the rates, in steps of `MEAN_STEP`, the maximum log-likelihood over slopes and rates of the bins."""
    size = _n_means(len(share))
    total = np.full((len(likelihood), size), -np.inf)
    total[:, 0] = 0.0
    for b, part in enumerate(share):
        steps = np.round(part * FLIP_RATES / MEAN_STEP).astype(int)  # what the bin adds to the mean
        added = np.full_like(total, -np.inf)
        for step in np.unique(steps):
            best = likelihood[:, steps == step, b].max(1, keepdims=True)
            added[:, step:] = np.maximum(added[:, step:], total[:, : size - step] + best)
        total = added
    return total.max(0)


def _interval(rates: np.ndarray, profile: np.ndarray) -> Estimate:
    """The most likely rate, and the interval of rates with a similar likelihood, extended by one grid point on each side."""
    rates, profile = rates[np.isfinite(profile)], profile[np.isfinite(profile)]
    inside = np.flatnonzero(2 * (profile.max() - profile) <= CUT)
    high = rates[inside[-1] + 1] if inside[-1] + 1 < len(rates) else 0.5
    return Estimate(*(float(x) for x in (rates[profile.argmax()], rates[max(inside[0] - 1, 0)], high)))


def wrong_majority(rate: float, votes: np.ndarray, weight: np.ndarray) -> float:
    """The share of wrong labels if each annotator errs with probability `rate` and the majority decides."""
    if rate == 0:
        return 0.0
    odds = ((1 - rate) / rate) ** (2.0 * votes[:, 0] - votes[:, 1])
    return float((weight / (1 + odds)).sum() / weight.sum())

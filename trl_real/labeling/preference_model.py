"""
A linear Bradley-Terry model of embeddings. It predicts which response is preferred, and how certain the prediction is.

The probability that the first response of a pair is preferred is `expit(difference @ weights)`, where `difference` is the
embedding of the first response minus that of the second. The weights have a normal prior. Its precision maximizes the evidence,
so that a few labels have little effect. There is no intercept, so nothing depends on which response comes first.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit


# Newton's method ends when no log-odds change by more than this.
STEPS, TOLERANCE = 50, 1e-8
# The precision of the prior for unit vectors without labels. Labels of AlpacaEval and HH-RLHF give about this value.
PRIOR_PRECISION = 4.0
# Grid of log precisions of the prior.
PRECISIONS = np.linspace(np.log(1e-2), np.log(1e5), 50)
# The mean of `expit` of a normal variable with variance v is about expit(mean / sqrt(1 + SHRINK * v)).
SHRINK = np.pi / 8
# Nodes and weights for the mean of a function of a standard normal variable.
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


@dataclass(frozen=True)
class PreferenceModel:
    """
    The posterior distribution of the weights, approximated by a normal distribution.

    Attributes:
        weights (`np.ndarray` of shape `(dim,)`): The mean of the weights.
        covariance (`np.ndarray` of shape `(dim, dim)`): The covariance of the weights.
        precision (`float`): The precision of the prior.
    """

    weights: np.ndarray
    covariance: np.ndarray
    precision: float

    def logits(self, difference: np.ndarray) -> np.ndarray:
        """The log-odds that the first response is preferred, `(n,)`."""
        return difference @ self.weights.astype(difference.dtype)

    def variances(self, difference: np.ndarray) -> np.ndarray:
        """The variances of these log-odds, `(n,)`."""
        return np.einsum("ij,ij->i", difference @ self.covariance.astype(difference.dtype), difference)

    def chances(self, difference: np.ndarray) -> np.ndarray:
        """The probability that the first response is preferred, averaged over the weights, `(n,)`."""
        return chance(self.logits(difference), self.variances(difference))


def chance(logit: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """The mean of `expit` of a normal variable."""
    return expit(logit / np.sqrt(1 + SHRINK * variance))


def fit(
    difference: np.ndarray, share: np.ndarray, count: np.ndarray, precision: float | None = None
) -> PreferenceModel:
    """
    Fit the model.

    Args:
        difference (`np.ndarray` of shape `(n, dim)`): Embedding of the first response minus that of the second.
        share (`np.ndarray` of shape `(n,)`): The share of the labels of each pair that prefer the first response.
        count (`np.ndarray` of shape `(n,)`): The number of labels of each pair.
        precision (`float`, *optional*): Precision of the prior. If `None`, the precision that maximizes the evidence.

    Returns:
        [`PreferenceModel`]: The most likely weights, found by Newton's method, and the inverse curvature at this point.
    """
    precision = prior_precision(difference, share, count) if precision is None else precision
    weights = np.zeros(difference.shape[1])
    for _ in range(STEPS):
        chances = expit(difference @ weights)
        curvature = _information(difference, count * chances * (1 - chances)) + precision * np.eye(len(weights))
        step = np.linalg.solve(curvature, difference.T @ (count * (share - chances)) - precision * weights)
        weights = weights + step
        if np.abs(difference @ step).max(initial=0.0) < TOLERANCE:
            break
    return PreferenceModel(weights, np.linalg.inv(curvature), precision)


def without_labels(dim: int) -> PreferenceModel:
    """The model before the first label, which is the prior."""
    return PreferenceModel(np.zeros(dim), np.eye(dim) / PRIOR_PRECISION, PRIOR_PRECISION)


def prior_precision(difference: np.ndarray, share: np.ndarray, count: np.ndarray) -> float:
    """The precision of the prior that maximizes the evidence, with the log-likelihood expanded at zero weights."""
    values, vectors = np.linalg.eigh(_information(difference, count / 4))
    values = np.maximum(values, 0.0)
    slope = vectors.T @ (difference.T @ (count * (share - 0.5)))

    def less_evidence(log_precision: float) -> float:
        precision = np.exp(log_precision)
        # With few labels, the precision stays within about a factor of e of `PRIOR_PRECISION`.
        few_labels = (log_precision - np.log(PRIOR_PRECISION)) ** 2
        return float(np.log1p(values / precision).sum() - (slope**2 / (precision + values)).sum() + few_labels)

    best = int(np.argmin([less_evidence(precision) for precision in PRECISIONS]))
    bounds = PRECISIONS[max(best - 1, 0)], PRECISIONS[min(best + 1, len(PRECISIONS) - 1)]
    return float(np.exp(minimize_scalar(less_evidence, bounds=bounds, method="bounded").x))


def _information(difference: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return (difference * weight[:, None]).T @ difference


@dataclass(frozen=True)
class JudgedPairs:
    """
    Pairs on which a model of their labels is evaluated, each as if the model had not seen the pairs of its prompt.

    Attributes:
        difference (`np.ndarray` of shape `(n, dim)`): Embedding of the first response minus that of the second.
        share (`np.ndarray` of shape `(n,)`): The share of the labels of each pair that prefer the first response.
        count (`np.ndarray` of shape `(n,)`): The number of labels of each pair, 0 for unlabeled pairs.
        prompts (`np.ndarray` of shape `(n,)`): The prompt of each pair as a number.
    """

    difference: np.ndarray
    share: np.ndarray
    count: np.ndarray
    prompts: np.ndarray

    def unseen(self, model: PreferenceModel) -> tuple[np.ndarray, np.ndarray]:
        """
        The log-odds of a model that has not seen the prompt, and their variances, both `(n,)`.

        One step of Newton's method from the model of all labels removes the labels of a prompt, so no model is fitted again.
        """
        logits, variances = model.logits(self.difference), np.empty(len(self.prompts))
        seen = expit(logits)
        for own, covariance in self._without_own(model.covariance, self.count * seen * (1 - seen)):
            pull = self.count[own] * (self.share[own] - seen[own])
            logits[own] -= np.einsum("nij,nj->ni", covariance, pull)
            variances[own] = np.diagonal(covariance, axis1=1, axis2=2)
        return logits, variances

    def expected_gain(self, model: PreferenceModel, n: int, n_rest: int) -> float:
        """
        The expected increase of the agreement between the model and the labels after `n` more labels.

        Labels of `n` randomly sampled pairs would reduce the covariance in a known way. The future log-odds of a pair are then
        normally distributed around the current ones, with the variance that is lost. The gain is the resulting increase of the
        mean probability of the side that the model prefers (the expected value of sample information).

        Args:
            model ([`PreferenceModel`]): The model of the labels so far.
            n (`int`): The number of pairs to label next.
            n_rest (`int`): The number of unlabeled pairs. The unlabeled pairs here are all of them, or a random sample.
        """
        rest = self.count == 0
        if not rest.any():
            return 0.0
        seen = expit(model.logits(self.difference))
        new = np.where(rest, min(n / n_rest, 1.0), 0.0)  # the expected number of new labels per pair
        added = _information(self.difference, new * seen * (1 - seen)) * n_rest / rest.sum()
        narrowed = np.linalg.inv(np.linalg.inv(model.covariance) + added)
        after = np.empty(len(rest))
        for own, covariance in self._without_own(narrowed, (self.count + new) * seen * (1 - seen)):
            after[own] = np.diagonal(covariance, axis1=1, axis2=2)
        logits, before = self.unseen(model)
        moved = np.sqrt(np.maximum(before - after, 0.0))
        agrees = np.abs(chance(logits[:, None] + moved[:, None] * NODES, after[:, None]) - 0.5) @ WEIGHTS
        return float((agrees - np.abs(chance(logits, before) - 0.5)).mean())

    def _without_own(self, covariance: np.ndarray, information: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """
        For each number k of pairs per prompt, the pairs of the prompts that have k, `(n_prompts, k)`, and the covariances of
        their log-odds without the `information` of their own labels, `(n_prompts, k, k)`.
        """
        order = np.argsort(self.prompts, kind="stable")
        starts = np.flatnonzero(np.diff(self.prompts[order], prepend=-1))
        counts = np.diff(starts, append=len(order))
        for k in np.unique(counts).tolist():
            own = order[starts[counts == k][:, None] + np.arange(k)]
            difference = self.difference[own]
            found = difference @ covariance @ difference.transpose(0, 2, 1)
            yield own, found @ np.linalg.inv(np.eye(k) - information[own][:, :, None] * found)

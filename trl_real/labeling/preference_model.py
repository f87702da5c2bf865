"""
A linear Bradley-Terry model of embeddings: how likely one response is preferred to another, and how sure that is.

The chance that the first response of a pair is preferred is `expit(difference @ weights)`, where `difference` is the embedding of the
first less that of the second. The weights have a normal prior whose precision is the one with the greatest evidence, so that
few labels say little. There is no intercept: nothing depends on which response comes first.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit


# Newton's method ends when no log-odds move by more than this.
STEPS, TOLERANCE = 50, 1e-8
# The precision of the prior of unit vectors before there are labels, about what labels of AlpacaEval and HH-RLHF make of it.
PRIOR_PRECISION = 4.0
# Log precisions of the prior that are tried.
PRECISIONS = np.linspace(np.log(1e-2), np.log(1e5), 50)
# A logistic function with a normally distributed argument of variance v is about expit(mean / sqrt(1 + SHRINK * v)).
SHRINK = np.pi / 8
# Nodes and weights for the mean of a function of a standard normal variable.
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


@dataclass(frozen=True)
class PreferenceModel:
    """
    What labels say about the weights, as a normal distribution.

    Attributes:
        weights (`np.ndarray` of shape `(dim,)`): Their mean.
        covariance (`np.ndarray` of shape `(dim, dim)`): Their covariance.
        precision (`float`): The precision of their prior.
    """

    weights: np.ndarray
    covariance: np.ndarray
    precision: float

    def logits(self, difference: np.ndarray) -> np.ndarray:
        """The log-odds that the first response is preferred, `(n,)`."""
        return difference @ self.weights

    def variances(self, difference: np.ndarray) -> np.ndarray:
        """The variances of these log-odds, `(n,)`."""
        return np.einsum("ij,ij->i", difference @ self.covariance, difference)

    def chances(self, difference: np.ndarray) -> np.ndarray:
        """The chance that the first response is preferred, `(n,)`, whatever the weights may be."""
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
        difference (`np.ndarray` of shape `(n, dim)`): Embedding of the first response less that of the second.
        share (`np.ndarray` of shape `(n,)`): Which share of the labels of the pair is for the first response.
        count (`np.ndarray` of shape `(n,)`): How many labels that are.
        precision (`float`, *optional*): Precision of the prior. If `None`, the one with the greatest evidence.

    Returns:
        [`PreferenceModel`]: The most likely weights, by Newton's method, and the inverse curvature there.
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
    """What is known before the first label: the prior alone."""
    return PreferenceModel(np.zeros(dim), np.eye(dim) / PRIOR_PRECISION, PRIOR_PRECISION)


def prior_precision(difference: np.ndarray, share: np.ndarray, count: np.ndarray) -> float:
    """The precision of the prior with the greatest evidence, where the log-likelihood is expanded at weights of zero."""
    values, vectors = np.linalg.eigh(_information(difference, count / 4))
    values = np.maximum(values, 0.0)
    slope = vectors.T @ (difference.T @ (count * (share - 0.5)))

    def less_evidence(log_precision: float) -> float:
        precision = np.exp(log_precision)
        few_labels = (
            log_precision - np.log(PRIOR_PRECISION)
        ) ** 2  # say little: it is within a factor of e of the usual
        return float(np.log1p(values / precision).sum() - (slope**2 / (precision + values)).sum() + few_labels)

    best = int(np.argmin([less_evidence(precision) for precision in PRECISIONS]))
    bounds = PRECISIONS[max(best - 1, 0)], PRECISIONS[min(best + 1, len(PRECISIONS) - 1)]
    return float(np.exp(minimize_scalar(less_evidence, bounds=bounds, method="bounded").x))


def _information(difference: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return (difference * weight[:, None]).T @ difference


def without_own_prompt(
    model: PreferenceModel, difference: np.ndarray, share: np.ndarray, count: np.ndarray, groups: np.ndarray
) -> np.ndarray:
    """
    The chance that the first response is preferred, `(n,)`, as a model says that has not seen the prompt of the pair.

    One step of Newton's method from the model of all labels takes those of a prompt out of it, so that nothing is fit anew.

    Args:
        model ([`PreferenceModel`]): The model of all these labels.
        difference, share, count: As in [`fit`].
        groups (`np.ndarray` of shape `(n,)`): The number of each pair's prompt.
    """
    logits, variances = model.logits(difference), np.empty(len(groups))
    seen = expit(logits)
    order = np.argsort(groups, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        covariance = difference[part] @ model.covariance @ difference[part].T
        information = count[part] * seen[part] * (1 - seen[part])
        # Of the log-odds of these pairs without what their own labels tell about the weights.
        covariance = covariance @ np.linalg.inv(np.eye(len(part)) - information[:, None] * covariance)
        logits[part] -= covariance @ (count[part] * (share[part] - seen[part]))
        variances[part] = np.diagonal(covariance)
    return chance(logits, variances)


def expected_gain(model: PreferenceModel, rest: np.ndarray, n: int, n_rest: int) -> float:
    """
    How much more often the model is expected to agree with the label of another pair, once it has seen `n` more labels.

    Labels of `n` pairs of the rest, drawn at random, would narrow the covariance in a known way. The log-odds that the model
    will then give to a pair are normal around those of today, with the variance that is lost; the gain is what that moves the
    mean chance of the side that the model prefers (the expected value of sample information).

    Args:
        model ([`PreferenceModel`]): What the labels so far say.
        rest (`np.ndarray` of shape `(n_sample, dim)`): The pairs without a label, or a random sample of them.
        n (`int`): How many of the pairs without a label are labeled next.
        n_rest (`int`): How many there are.
    """
    if not len(rest):
        return 0.0
    logits, before = model.logits(rest), model.variances(rest)
    information = expit(logits) * expit(-logits) * min(n / n_rest, 1.0)  # that a pair is expected to add
    added = _information(rest, information) * n_rest / len(rest)
    covariance = np.linalg.inv(np.linalg.inv(model.covariance) + added)
    after = PreferenceModel(model.weights, covariance, model.precision).variances(rest)
    # The pair that is judged is none of those that are labeled.
    after = np.minimum(after / np.maximum(1 - information * after, TOLERANCE), before)
    moved = logits[:, None] + np.sqrt(before - after)[:, None] * NODES
    agrees = np.abs(chance(moved, after[:, None]) - 0.5) @ WEIGHTS
    return float((agrees - np.abs(chance(logits, before) - 0.5)).mean())

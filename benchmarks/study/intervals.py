"""95% intervals over splits of the same rows, and over prompts."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student_t


RESAMPLES = 2000


def over_seeds(values: list[float], held_out: float) -> dict[str, float]:
    """
    A mean over random splits.

    The splits share their rows, so the plain standard error is too small. It is corrected as in Nadeau and Bengio (Inference for the
    Generalization Error, 2003).

    Args:
        values (`list[float]`): One value per seed, measured on the held-out rows, two or more.
        held_out (`float`): The share of the rows that each split holds out.

    Returns:
        `dict[str, float]`: `mean`, `low` and `high`.
    """
    n = len(values)
    error = np.std(values, ddof=1) * np.sqrt(1 / n + held_out / (1 - held_out))
    margin = float(student_t.ppf(0.975, n - 1) * error)
    mean = float(np.mean(values))
    return _estimate(mean, mean - margin, mean + margin)


def over_draws(values: Sequence[float]) -> dict[str, float]:
    """
    A mean over random draws of splits or annotators, for these texts.

    Args:
        values (`Sequence[float]`): One value per draw, two or more.

    Returns:
        `dict[str, float]`: `mean`, `low` and `high`.
    """
    margin = float(student_t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    mean = float(np.mean(values))
    return _estimate(mean, mean - margin, mean + margin)


def over_prompts(totals: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """
    A mean of pairs, several of which may be of one prompt: a bootstrap that draws prompts.

    Args:
        totals (`np.ndarray` of shape `(n_prompts,)`): The sum over the pairs of each prompt.
        counts (`np.ndarray` of shape `(n_prompts,)`): How many pairs it has.

    Returns:
        `dict[str, float]`: `mean`, `low` and `high`.
    """
    n = len(totals)
    drawn = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
    means = totals[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return _estimate(totals.sum() / counts.sum(), low, high)


def _estimate(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": round(float(mean), 4), "low": round(float(low), 4), "high": round(float(high), 4)}

"""Intervals of means over seeds that split the same data."""

import numpy as np
from scipy.stats import t as student_t


def over_seeds(values: list[float], held_out: float) -> dict[str, float]:
    """
    A mean over random splits and its 95% interval.

    The splits share their rows, so that the plain standard error is too small; it is corrected as in Nadeau and Bengio (Inference
    for the Generalization Error, 2003).

    Args:
        values (`list[float]`): One value a seed.
        held_out (`float`): The share of the rows that each split holds out.

    Returns:
        `dict[str, float]`: `mean`, `low` and `high`.
    """
    n = len(values)
    error = np.std(values, ddof=1) * np.sqrt(1 / n + held_out / (1 - held_out))
    margin = float(student_t.ppf(0.975, n - 1) * error)
    mean = float(np.mean(values))
    return {"mean": round(mean, 4), "low": round(mean - margin, 4), "high": round(mean + margin, 4)}

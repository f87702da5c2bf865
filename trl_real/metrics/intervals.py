"""Values with the ends of their intervals, as named results."""

from scipy.stats import binomtest


def share(name: str, k: int, n: int) -> dict[str, float]:
    """A share with its Wilson interval."""
    ends = binomtest(k, n).proportion_ci(method="wilson")
    return interval(name, k / n, ends.low, ends.high)


def interval(name: str, value: float, low: float, high: float) -> dict[str, float]:
    """A value and the ends of its interval."""
    return {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}

"""Many numbers in short, of all pairs beside those of the picked ones."""

from dataclasses import dataclass, field

import numpy as np

from .value_counts import ValueCounts


QUANTILES = {"min": 0.0, "p25": 0.25, "median": 0.5, "p75": 0.75, "max": 1.0}
BINS = 40


@dataclass
class Distribution:
    """
    Numbers in short.

    Attributes:
        count (`int`): How many there are, NaN included.
        quantiles (`dict[str, float]`): Minimum, quartiles and maximum; empty if there are none. Exact for up to 262,144
            distinct values, and within one part in 4,096 beyond.
        histogram (`list[int]`): Counts in `BINS` equal bins, those beyond the ends in the first and the last.
    """

    count: int = 0
    quantiles: dict[str, float] = field(default_factory=dict)
    histogram: list[int] = field(default_factory=lambda: [0] * BINS)

    @classmethod
    def of(cls, tally: ValueCounts, low: float = -1.0, high: float = 1.0) -> "Distribution":
        """Describe numbers, with a histogram from `low` to `high`; NaN is counted and otherwise left out."""
        values, counts = tally.distinct()
        quantiles = tally.quantiles(list(QUANTILES.values()))
        if not quantiles:
            return cls(int(counts.sum()))
        finite = np.isfinite(values)
        clipped = np.clip(values[finite].astype(np.float64), low, high)
        histogram, _ = np.histogram(clipped, bins=BINS, range=(low, high), weights=counts[finite])
        return cls(
            int(counts.sum()),
            {name: round(value, 6) for name, value in zip(QUANTILES, quantiles, strict=True)},
            histogram.tolist(),
        )


@dataclass
class Comparison:
    """
    A measure of all pairs that could be labeled beside the picked ones.

    Attributes:
        eligible (`Distribution`): All pairs that could be labeled.
        picked (`Distribution`): The picked pairs, before training dropped any for their length.
        low (`float`): Where the histograms begin.
        high (`float`): Where they end.
    """

    eligible: Distribution = field(default_factory=Distribution)
    picked: Distribution = field(default_factory=Distribution)
    low: float = -1.0
    high: float = 1.0

    @classmethod
    def of(cls, eligible: ValueCounts, picked: ValueCounts, bounded: bool) -> "Comparison":
        """Compare numbers: `bounded` ones lie in -1 to 1, of others the histograms leave out the outermost percents."""
        low, high = -1.0, 1.0
        if not bounded and (ends := eligible.quantiles([0.01, 0.99])):
            low, high = ends[0], max(ends[1], ends[0] + 1e-6 * max(1.0, abs(ends[0])))
        return cls(Distribution.of(eligible, low, high), Distribution.of(picked, low, high), low, high)

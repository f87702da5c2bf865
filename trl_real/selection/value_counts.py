"""Count the values of a measure in little memory: `ValueCounts`."""

import numpy as np


# Up to this many distinct values are kept exactly (3 MB): enough for about 9,000 prompts with 8 responses.
LIMIT = 1 << 18
# Beyond the limit, values are rounded to this many significant bits: by at most one part in 4,096.
BITS = 12
NO_VALUES, NO_COUNTS = np.zeros(0, np.float32), np.zeros(0, np.int64)


class ValueCounts:
    """
    How often each value of a measure occurs.

    Values are float32. If there are more than `LIMIT` distinct values, all of them are rounded to `BITS` significant bits. The
    result depends only on the numbers, not on their order or on how many are added at once.

    Args:
        numbers (`np.ndarray`, *optional*):
            The first numbers.
    """

    def __init__(self, numbers: np.ndarray | None = None):
        self._values, self._counts = NO_VALUES, NO_COUNTS
        self._new: list[np.ndarray] = []
        self._n_new = 0
        self._rounded = False
        if numbers is not None:
            self.add(numbers)

    def add(self, numbers: np.ndarray) -> None:
        """Count more numbers."""
        with np.errstate(over="ignore"):  # what is too large becomes infinite
            self._new.append(numbers.astype(np.float32))
        self._n_new += len(numbers)
        if self._n_new > LIMIT:
            self._merge()

    def update(self, other: "ValueCounts") -> None:
        """Count all numbers that another one has counted. The result is the same as if they had been added here."""
        values, counts = other.distinct()
        self._rounded = self._rounded or other._rounded
        self._merge(values, counts)

    def distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """The distinct values in ascending order with NaN last, float32, and the count of each, int64."""
        self._merge()
        return self._values, self._counts

    def quantiles(self, shares: list[float]) -> list[float]:
        """The quantiles of all finite numbers, as `np.quantile` computes them; empty if there are none."""
        values, counts = self.distinct()
        finite = np.isfinite(values)
        values, ends = values[finite].astype(np.float64), np.cumsum(counts[finite])
        if not len(values):
            return []
        at = np.array(shares) * (ends[-1] - 1)
        low, high = (values[np.searchsorted(ends, place, side="right")] for place in (np.floor(at), np.ceil(at)))
        quantiles: list[float] = (low + (high - low) * (at - np.floor(at))).tolist()
        return quantiles

    def _merge(self, more: np.ndarray = NO_VALUES, counts_of_more: np.ndarray = NO_COUNTS) -> None:
        values = np.concatenate([self._values, more, *self._new])
        counts = np.concatenate([self._counts, counts_of_more, np.ones(self._n_new, np.int64)])
        self._new, self._n_new = [], 0
        if self._rounded:
            mantissas, exponents = np.frexp(values)
            values = np.ldexp(np.round(mantissas * 2**BITS), exponents - BITS)
        self._values, where = np.unique(values, return_inverse=True)
        # `np.bincount` returns float64, which represents the counts exactly.
        self._counts = np.bincount(where, counts, len(self._values)).astype(np.int64)
        if len(self._values) > LIMIT and not self._rounded:
            self._rounded = True
            self._merge()

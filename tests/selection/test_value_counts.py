import numpy as np
import pytest

from trl_real.selection import value_counts
from trl_real.selection.distribution import QUANTILES
from trl_real.selection.value_counts import ValueCounts


def test_counts_distinct_values():
    counted = ValueCounts(np.array([2.0, np.nan, 0.0, 2.0, -np.inf]))
    counted.add(np.array([-1, 2]))
    counted.add(np.array([np.nan, -0.0]))
    values, counts = counted.distinct()
    np.testing.assert_array_equal(values, [-np.inf, -1, 0, 2, np.nan])
    np.testing.assert_array_equal(counts, [1, 1, 2, 3, 2])
    assert [len(numbers) for numbers in ValueCounts().distinct()] == [0, 0]


@pytest.mark.parametrize("n", [1, 2, 3, 1000])
@pytest.mark.parametrize("spread", [3, 1e6])
def test_quantiles_are_those_of_numpy(n, spread, rng):
    numbers = np.round(rng.uniform(-1, 1, n) * spread) / 8
    shares = list(QUANTILES.values())
    expected = np.quantile(numbers.astype(np.float32), shares)
    assert ValueCounts(np.append(numbers, [np.nan, np.inf])).quantiles(shares) == pytest.approx(expected)
    assert ValueCounts(np.array([np.nan])).quantiles(shares) == []


def test_more_values_than_there_is_room_for_are_rounded(rng, monkeypatch):
    monkeypatch.setattr(value_counts, "LIMIT", 1000)
    numbers = rng.standard_normal(50_000) * np.exp(rng.uniform(-3, 10, 50_000))
    numbers[::100] = 0.0
    values, counts = ValueCounts(numbers).distinct()
    assert counts.sum() == len(numbers)
    assert counts[values == 0] == 500
    np.testing.assert_allclose(np.repeat(values, counts), np.sort(numbers), rtol=1 / 4096)
    shares = list(QUANTILES.values())
    np.testing.assert_allclose(ValueCounts(numbers).quantiles(shares), np.quantile(numbers, shares), rtol=1 / 4096)


@pytest.mark.parametrize("n", [900, 1001, 20_000])
def test_neither_order_nor_batches_matter(n, rng, monkeypatch):
    monkeypatch.setattr(value_counts, "LIMIT", 1000)
    numbers = np.round(rng.standard_normal(n), 5)
    expected = ValueCounts(numbers).distinct()
    for size in (1, 7, 999, 5000):
        counted = ValueCounts()
        shuffled = rng.permutation(numbers)
        for start in range(0, n, size):
            counted.add(shuffled[start : start + size])
        for found, of_all in zip(counted.distinct(), expected, strict=True):
            np.testing.assert_array_equal(found, of_all)


@pytest.mark.parametrize("n", [900, 1001, 20_000])
@pytest.mark.parametrize("parts", [2, 11])
def test_counts_of_parts_add_up_to_the_counts_of_all(n, parts, rng, monkeypatch):
    """Also if some parts have more distinct values than there is room for and others have not."""
    monkeypatch.setattr(value_counts, "LIMIT", 1000)
    numbers = np.append(np.round(rng.standard_normal(n), 5), np.nan)
    total = ValueCounts()
    for ends in np.split(numbers, np.sort(rng.integers(0, n, parts - 1))):
        total.update(ValueCounts(ends))
    for found, of_all in zip(total.distinct(), ValueCounts(numbers).distinct(), strict=True):
        np.testing.assert_array_equal(found, of_all)

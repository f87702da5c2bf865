import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_real.core.ordering import cheapest_first


def one_after_the_other(cost, second, tolerance, most):
    """By definition, in quadratic time: the cheapest of those that are left, again and again."""
    picked, left = [], dict(enumerate(cost))
    for _ in range(most):
        least = min(left.values(), default=math.inf)
        if least == math.inf:
            picked.append(-1)
            continue
        column = min((c for c in left if left[c] <= least + tolerance), key=lambda c: (second[c], c))
        del left[column]
        picked.append(column)
    return picked


# Steps of half a tolerance and less, so that chains of ties grow wider than it.
costs = st.one_of(st.integers(0, 12).map(lambda n: n * 0.25), st.just(math.inf), st.just(-math.inf), st.floats(-5, 5))


@given(st.data(), st.integers(1, 4), st.integers(1, 12), st.sampled_from([0.0, 0.1, 0.25, 0.6, 1.0, 3.0]))
def test_picks_are_those_of_one_after_the_other(data, n, m, tolerance):
    cost = np.array(data.draw(st.lists(st.lists(costs, min_size=m, max_size=m), min_size=n, max_size=n)))
    second = np.array(
        data.draw(st.lists(st.lists(st.integers(0, 3), min_size=m, max_size=m), min_size=n, max_size=n)), dtype=float
    )
    most = data.draw(st.integers(1, m))
    expected = [one_after_the_other(*row, tolerance, most) for row in zip(cost.tolist(), second.tolist(), strict=True)]
    assert cheapest_first(cost, second, tolerance, most).tolist() == expected


@pytest.mark.parametrize("tolerance", [0.0, 1e-3, 0.05])
@pytest.mark.parametrize("most", [1, 2, 50, 300])
def test_many_columns(tolerance, most):
    rng = np.random.default_rng(most)
    cost, second = rng.random((3, 300)), rng.integers(0, 50, (3, 300)).astype(float)
    cost[:, ::7] = math.inf
    expected = [one_after_the_other(*row, tolerance, most) for row in zip(cost, second, strict=True)]
    assert cheapest_first(cost, second, tolerance, most).tolist() == expected

import numpy as np
import pytest
from conftest import similarities
from sklearn.cluster import KMeans

from trl_real.core.two_means import _search_split, two_means


def within_cluster_sum_of_squares(vectors, split):
    return sum(((c - c.mean(0)) ** 2).sum() for c in (vectors[split], vectors[~split]))


@pytest.mark.parametrize("k", [*range(10, 17), 20, 40])
def test_2means_is_never_worse_than_ten_restarts_of_scikit_learn(k):
    vectors, similarity = similarities(np.random.default_rng(k), 40, k)
    for row, split in zip(vectors, two_means(similarity), strict=True):
        reference = KMeans(2, n_init=10, random_state=0).fit(row).inertia_
        assert within_cluster_sum_of_squares(row, split) <= reference + 1e-6


def test_restarts_find_what_the_exact_search_finds():
    _, similarity = similarities(np.random.default_rng(1), 300, 9)
    exact, found = two_means(similarity), _search_split(similarity)
    same = (exact == found).all(1) | (exact == ~found).all(1)
    assert same.mean() > 0.99

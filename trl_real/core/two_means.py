"""2-means clustering of a few vectors, given only their cosines."""

import functools

import numpy as np


# Up to this many vectors, every split into two clusters is tried (2¹⁵ splits). Above, there are restarts.
EXACT = 16
RESTARTS = 64


def two_means(similarity: np.ndarray) -> np.ndarray:
    """
    The split of unit vectors into two clusters with the smallest within-cluster sum of squares.

    Args:
        similarity (`np.ndarray` of shape `(n, k, k)`): The cosines of n sets of k vectors.

    Returns:
        `np.ndarray` of shape `(n, k)`, bool: The members of one of the two clusters.
    """
    return _best_split(similarity) if similarity.shape[1] <= EXACT else _search_split(similarity)


def n_splits(k: int) -> int:
    """The number of values that [`two_means`] needs at once for a set of k vectors."""
    return 2 ** (k - 1) if k <= EXACT else RESTARTS * k


def _upper(similarity: np.ndarray) -> np.ndarray:
    i, j = np.triu_indices(similarity.shape[1], 1)
    return similarity[:, i, j]


def _best_split(similarity: np.ndarray) -> np.ndarray:
    """
    The split into two clusters with the smallest within-cluster sum of squares, `(n_prompts, k)`. Tries every split.

    For unit vectors this sum is k minus, for each cluster, the sum of its similarities (both orders and the diagonal)
    divided by its size.
    """
    splits, pairs_inside = _all_splits(similarity.shape[1])  # (n_splits, k), (n_pairs, n_splits)
    size = splits.sum(1)
    diagonal = np.diagonal(similarity, axis1=1, axis2=2)  # (n, k)
    total = similarity.sum((1, 2))[:, None]
    inside = 2 * _upper(similarity) @ pairs_inside + diagonal @ splits.T  # (n, n_splits)
    outside = total - 2 * similarity.sum(2) @ splits.T + inside
    gain = inside / size + outside / (similarity.shape[1] - size)
    # Rounding makes exact ties go to the first split, regardless of how many prompts share the matrix product.
    return splits[np.round(gain, 9).argmax(1)].astype(bool)


@functools.lru_cache(maxsize=EXACT)
def _all_splits(k: int) -> tuple[np.ndarray, np.ndarray]:
    """All splits of k into two non-empty clusters, and for each pair the splits that have it in the first cluster."""
    # The last response is never in the first cluster, so that each split occurs once.
    splits = (np.arange(1, 2 ** (k - 1))[:, None] >> np.arange(k) & 1).astype(np.float64)
    i, j = np.triu_indices(k, 1)
    return splits, np.ascontiguousarray((splits[:, i] * splits[:, j]).T)


def _search_split(similarity: np.ndarray) -> np.ndarray:
    """The best of `RESTARTS` runs of Lloyd's algorithm. Each starts from one of the least similar pairs, `(n, k)`."""
    n, k = similarity.shape[:2]
    i, j = np.triu_indices(k, 1)
    starts = np.argsort(_upper(similarity), axis=1, kind="stable")[:, :RESTARTS]  # (n, R)
    prompt = np.arange(n)[:, None]
    split = similarity[prompt, i[starts]] > similarity[prompt, j[starts]]  # (n, R, k)
    split[prompt, np.arange(starts.shape[1]), i[starts]] = True
    split[prompt, np.arange(starts.shape[1]), j[starts]] = False
    while True:
        to_first, to_second = distances(similarity, split)
        moved = to_first < to_second
        # A run stops when no response moves, or when a cluster would become empty.
        moved = np.where((moved.any(2) & ~moved.all(2))[..., None], moved, split)
        before = np.where(split, to_first, to_second).sum(2)  # (n, R)
        after = np.where(moved, *distances(similarity, moved)).sum(2)
        better = after < before - 1e-12
        if not better.any():
            return split[np.arange(n), np.round(before, 9).argmin(1)]
        split = np.where(better[..., None], moved, split)


def distances(similarity: np.ndarray, split: np.ndarray) -> np.ndarray:
    """Squared distances, computed from cosines, of the responses to both centroids of each split: `(2, n, R, k)`."""
    diagonal = np.diagonal(similarity, axis1=1, axis2=2)[:, None]  # (n, 1, k)
    distances = []
    for cluster in (split, ~split):
        weights = cluster / cluster.sum(2, keepdims=True)  # (n, R, k)
        to_members = weights @ similarity  # (n, R, k): <response, centroid>
        norm = (weights * to_members).sum(2, keepdims=True)  # |centroid|²
        distances.append(np.maximum(diagonal - 2 * to_members + norm, 0.0))
    return np.stack(distances)

"""The order of things by cost, where costs within a tolerance of the least are a tie."""

import heapq

import numpy as np


def cheapest(cost: np.ndarray, second: np.ndarray, tolerance: float) -> np.ndarray:
    """
    The cheapest column of each row; of columns within `tolerance` of the least cost the one with the lowest `second`, then
    the first.

    Args:
        cost, second (`np.ndarray` of shape `(n, m)`): What goes first, and what decides a tie.
        tolerance (`float`): How much more than the least a cost may be to tie with it.

    Returns:
        `np.ndarray` of shape `(n,)`: The columns, -1 in a row without a finite cost.
    """
    least = cost.min(1)
    choice = np.where(cost <= least[:, None] + tolerance, second, np.inf).argmin(1)
    return np.where(least < np.inf, choice, -1)


def cheapest_first(cost: np.ndarray, second: np.ndarray, tolerance: float, most: int) -> np.ndarray:
    """
    The columns that [`cheapest`] takes one after the other, each out of those that are left, in O(m log m).

    Args:
        cost, second, tolerance: As in [`cheapest`].
        most (`int`): How many of them are asked for.

    Returns:
        `np.ndarray` of shape `(n, most)`: The columns of each row, -1 where no finite cost is left.
    """
    if most == 1:  # needs no sorting
        return cheapest(cost, second, tolerance)[:, None]
    order = np.lexsort((second, cost)) if tolerance == 0 else _with_ties(cost, second, tolerance, most)
    order = order[:, :most]
    return np.where(np.take_along_axis(cost, order, 1) < np.inf, order, -1)


def _with_ties(cost: np.ndarray, second: np.ndarray, tolerance: float, most: int) -> np.ndarray:
    """
    The order in full for the first `most`, and for the others roughly.

    In ascending order, costs that follow each other within the tolerance form a chain. A chain is used up before the next one
    begins, and in one that is no wider than the tolerance all costs tie.
    """
    by_cost = np.argsort(cost, axis=1, kind="stable")
    costs = np.take_along_axis(cost, by_cost, 1)
    begins = np.ones(cost.shape, dtype=bool)
    begins[:, 1:] = costs[:, 1:] > costs[:, :-1] + tolerance
    chains = np.empty(cost.shape, dtype=np.int64)
    np.put_along_axis(chains, by_cost, begins.cumsum(1), 1)
    order = np.lexsort((second, chains))
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], costs.size)
    wide = costs.flat[ends - 1] > costs.flat[starts] + tolerance
    for start, end in zip(starts[wide].tolist(), ends[wide].tolist(), strict=True):
        row, column = divmod(start, cost.shape[1])
        if column < most:
            members = by_cost[row, column : column + end - start]
            picked = _along_chain(members, cost[row, members], second[row, members], tolerance, most - column)
            order[row, column : column + len(picked)] = picked
    return order


def _along_chain(members: np.ndarray, cost: np.ndarray, second: np.ndarray, tolerance: float, most: int) -> list[int]:
    """The first `most` columns of a chain, which is given in ascending order of cost: those that tie wait in a heap."""
    waiting: list[tuple[float, int, int]] = []
    taken = [False] * len(members)
    picked: list[int] = []
    costs, entries = cost.tolist(), list(zip(second.tolist(), members.tolist(), range(len(members)), strict=True))
    low = high = 0
    while len(picked) < min(most, len(members)):
        while taken[low]:
            low += 1
        while high < len(costs) and costs[high] <= costs[low] + tolerance:
            heapq.heappush(waiting, entries[high])
            high += 1
        _, column, place = heapq.heappop(waiting)
        taken[place] = True
        picked.append(column)
    return picked

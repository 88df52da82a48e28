"""The Pareto front: the choices that no other choice beats."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["front"]


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which of these `(cost, quality)` points are on the Pareto front, cheapest first.

    A point is off the front when another point has at least its quality at no more cost. Equal
    points do not beat each other.

    >>> front([(1, 0.5), (2, 0.9), (3, 0.8), (4, 0.9)])
    [0, 1]
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i))
    found: list[int] = []
    for index in order:
        if not found or points[index][1] > points[found[-1]][1] or _equal(points, index, found):
            found.append(index)
    return found


def _equal(points: Sequence[tuple[float, float]], index: int, found: Sequence[int]) -> bool:
    return points[index] == points[found[-1]]

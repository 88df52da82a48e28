"""Count, sum, mean and deviation of finite values, without overflow on the way."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["Moments"]

SMALLEST = 2.0**-1022  # of the normal floats


class Moments:
    """The count, the sum and the sum of squared distances from the mean.

    Sums are kept in a unit: the largest magnitude so far, rounded down to a power of two. So
    neither they nor their squares overflow, and a change of the unit is exact. The sum of
    non-negative values never falls, because adding a non-negative float never makes one smaller.
    """

    __slots__ = ("_squares", "_total", "_unit", "count")

    def __init__(self) -> None:
        self.count = 0
        self._total = 0.0
        self._squares = 0.0
        self._unit = SMALLEST

    @property
    def sum(self) -> float:
        """Sum of all values; infinite when it overflows a float."""
        return self._total * self._unit

    @property
    def mean(self) -> float:
        """Mean of all values; needs at least one."""
        return self._total / self.count * self._unit

    @property
    def std(self) -> float:
        """Standard deviation of the population; needs at least one value."""
        return math.sqrt(self._squares / self.count) * self._unit

    def add(self, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
        """Add one or more finite values, `(n,)` float64."""
        largest = float(np.abs(values).max())
        if largest > self._unit:
            self._measure_in(math.ldexp(1.0, math.frexp(largest)[1] - 1))
        scaled = values / self._unit
        total = float(scaled.sum())
        squares = float(np.square(scaled - total / len(scaled)).sum())
        self._combine(len(scaled), total, squares)

    def merge(self, other: Moments) -> None:
        """Add all values of another one."""
        if other.count:
            self._measure_in(max(self._unit, other._unit))
            ratio = other._unit / self._unit
            self._combine(other.count, other._total * ratio, other._squares * ratio * ratio)

    def _measure_in(self, unit: float) -> None:
        ratio = self._unit / unit
        self._total *= ratio
        self._squares *= ratio * ratio
        self._unit = unit

    def _combine(self, count: int, total: float, squares: float) -> None:
        # Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing
        # sample variances" (1979).
        if self.count:
            apart = total / count - self._total / self.count
            squares += apart * apart * self.count * count / (self.count + count)
        self._squares += squares
        self._total += total
        self.count += count

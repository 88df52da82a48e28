"""The values of one metric, in bounded memory."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from transom.errors import InputError, MissingExtraError
from transom.forks import ThreadLock

if TYPE_CHECKING:
    from datasketches import tdigest_double

__all__ = ["QUANTILES", "Series", "Summary"]

BUFFER = 1024  # values that wait to be summed up together
DETAIL = 400  # of digests: some 8 kB each, and ranks as near as `Summary` says
LOWEST, HIGHEST = -math.inf, math.inf
RATE_SECONDS = 60.0  # that a rate looks back, about
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


class Summary:
    """How many values there were and how they were spread; two of them can be put together.

    Percentiles are those of a t-digest (Dunning and Ertl, arXiv 1902.04023): the rank of p50 is
    off by 0.01 at most in what was tried, that of p90 by 0.005, that of p99 by 0.001.
    """

    __slots__ = ("count", "digest", "last", "maximum", "mean", "minimum", "squares")

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self.squares = 0.0  # sum of squared distances from the mean
        self.minimum = math.inf
        self.maximum = -math.inf
        self.last = math.nan
        self.digest = _new_digest()

    def add(self, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
        """Take finite values, at least one, float64."""
        mean = float(values.mean())
        squares = float(np.square(values - mean).sum())
        self._combine(len(values), mean, squares)
        self.last = float(values[-1])
        values = np.sort(values)  # of which the digest makes short work
        self.minimum = min(self.minimum, float(values[0]))
        self.maximum = max(self.maximum, float(values[-1]))
        self.digest.update(values)

    def merge(self, other: Summary) -> None:
        """Take what another one has taken."""
        if other.count:
            self._combine(other.count, other.mean, other.squares)
            self.minimum = min(self.minimum, other.minimum)
            self.maximum = max(self.maximum, other.maximum)
            self.last = other.last
            self.digest.merge(other.digest)

    def statistics(self) -> dict[str, float]:
        """Count, mean, std (of all values, not of a sample), min, max, last and percentiles."""
        if not self.count:
            return {}
        return {
            "count": self.count,
            "mean": self.mean,
            "std": math.sqrt(self.squares / self.count),
            "min": self.minimum,
            "max": self.maximum,
            "last": self.last,
            **{name: float(self.digest.get_quantile(rank)) for name, rank in QUANTILES.items()},
        }

    def _combine(self, count: int, mean: float, squares: float) -> None:
        # Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing
        # sample variances" (1979).
        total = self.count + count
        apart = mean - self.mean
        self.mean += apart * count / total
        self.squares += squares + apart * apart * self.count * count / total
        self.count = total


class Series:
    """Values as they are recorded, by any thread: a few are kept, and all are summed up."""

    __slots__ = ("_lock", "_marks", "_recorded", "_summary", "_waiting")

    def __init__(self) -> None:
        self._lock = ThreadLock()
        self._waiting: deque[float] = deque()  # which any thread may append to without the lock
        self._recorded = 0
        self._summary = Summary()
        self._marks: deque[tuple[float, int]] = deque([(monotonic(), 0)], maxlen=64)

    def record(self, value: float) -> None:
        """Take a value, in a few hundred nanoseconds.

        Raises:
            InputError: when it is not a finite number; it is not recorded then.
        """
        try:
            if not LOWEST < value < HIGHEST:
                raise InputError(f"the value {value!r} was recorded; expected a finite number.")
            waiting = self._waiting
            waiting.append(float(value))
            if len(waiting) >= BUFFER:
                with self._lock:
                    self._fold()
        except TypeError:
            raise InputError(
                f"{value!r} ({type(value).__name__}) was recorded; expected a finite number."
            ) from None

    def summary(self) -> Summary:
        """Of all values so far, a copy."""
        copy = Summary()
        with self._lock:
            self._fold()
            copy.merge(self._summary)
        return copy

    def statistics(self) -> dict[str, float]:
        """Those of `summary`, and the `rate`; empty without values."""
        statistics = self.summary().statistics()
        return statistics and {**statistics, "rate": self.rate()}

    def rate(self) -> float:
        """Values a second, over the last minute or since there have been any."""
        now = monotonic()
        with self._lock:
            self._fold()
            self._mark(now)
            since, before = next(
                (mark for mark in reversed(self._marks) if now - mark[0] >= RATE_SECONDS),
                self._marks[0],
            )
            return (self._recorded - before) / max(now - since, 1e-9)

    def _fold(self) -> None:
        waiting = self._waiting
        count = len(waiting)
        if count:
            values = np.array([waiting.popleft() for _ in range(count)])
            self._summary.add(values)
            self._recorded += count
            self._mark(monotonic())

    def _mark(self, now: float) -> None:
        if now - self._marks[-1][0] >= RATE_SECONDS / 32:
            self._marks.append((now, self._recorded))


def merged(series: Iterable[Series]) -> Summary:
    """All values of several series together."""
    together = Summary()
    for one in series:
        together.merge(one.summary())
    return together


def _new_digest() -> tdigest_double:
    try:
        from datasketches import tdigest_double
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"monitoring needs {error.name}, which is not installed: pip install 'transom[monitor]'"
        ) from error
    return tdigest_double(DETAIL)

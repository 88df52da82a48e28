"""Losses along a text of any length, in memory that does not grow with it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transom.errors import InputError

__all__ = ["LossCurve", "Stretch"]

BINS = 8192


class Stretch(NamedTuple):
    """Tokens `start <= position < stop` of a text and their mean loss, in nats per token.

    The loss is NaN where nothing was scored: a stretch of the first token alone.
    """

    start: int
    stop: int
    loss: float


class LossCurve:
    """Sums of per-token losses in equal bins, which get coarser as the text gets longer.

    Bins are powers of two and stretches are made of whole bins, so a stretch's loss is exact, and
    stretches meet at the lengths that models are trained on, which are powers of two as well.

    >>> curve = LossCurve()
    >>> curve.add([float("nan"), 3.0, 1.0])
    >>> curve.mean, curve.stretches(2)
    (2.0, (Stretch(start=0, stop=2, loss=3.0), Stretch(start=2, stop=3, loss=1.0)))
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._bin = 1
        self._sums = np.zeros(BINS)
        self._counts = np.zeros(BINS, dtype=np.int64)

    def add(self, losses: ArrayLike) -> None:
        """Take the losses of the next tokens, `(tokens,)`, in nats.

        NaN means "not scored" for the very first token, which nothing predicts. Anywhere else it
        is a fault of the model, and makes the loss of its stretch and the mean NaN too.
        """
        given = np.asarray(losses, dtype=np.float64)
        positions = np.arange(self.tokens, self.tokens + len(given))
        self.tokens += len(given)
        while self.tokens > BINS * self._bin:
            self._coarsen()
        scored = (positions > 0) | ~np.isnan(given)
        bins = positions[scored] // self._bin
        np.add.at(self._sums, bins, given[scored])
        np.add.at(self._counts, bins, 1)

    @property
    def mean(self) -> float:
        """Mean loss of all scored tokens, in nats; NaN without any."""
        return _mean(self._sums, self._counts)

    def length(self, at_most: int) -> int:
        """The shortest length of a stretch, in tokens, for which there are at most `at_most`."""
        length = self._bin
        while self.tokens > at_most * length:
            length *= 2
        return length

    def stretches(self, length: int) -> tuple[Stretch, ...]:
        """The text cut into stretches of `length` tokens, the last one shorter.

        Raises:
            InputError: when `length` is not a whole number of bins.
        """
        return tuple(
            self.stretch(start, min(start + length, self.tokens))
            for start in range(0, self.tokens, length)
        )

    def stretch(self, start: int, stop: int) -> Stretch:
        """The tokens `start <= position < stop`.

        Raises:
            InputError: when these are not whole bins; the last bin ends where the text does.
        """
        if start % self._bin or (stop % self._bin and stop != self.tokens):
            raise InputError(
                f"tokens {start:,} to {stop:,} are not a stretch; expected multiples of "
                f"{self._bin:,}, the bin in which losses along {self.tokens:,} tokens are kept."
            )
        bins = slice(start // self._bin, -(-stop // self._bin))
        return Stretch(start, stop, _mean(self._sums[bins], self._counts[bins]))

    def _coarsen(self) -> None:
        self._bin *= 2
        for totals in (self._sums, self._counts):
            halves = totals.reshape(-1, 2).sum(axis=1)
            totals[: BINS // 2] = halves
            totals[BINS // 2 :] = 0


def _mean(sums: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    scored = int(counts.sum())
    return float(sums.sum()) / scored if scored else float("nan")

"""A permutation of any length, of which each place can be computed by itself."""

from __future__ import annotations

import numpy as np
import xxhash
from numpy.typing import ArrayLike, NDArray

__all__ = ["Shuffle"]

ROUNDS = 8  # even, so that both halves end up where they began
FACTORS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
HALF = np.uint64(32)


class Shuffle:
    """The order of `length` things, epoch after epoch; each comes once in every epoch.

    A Feistel network permutes the numbers below the next power of two; a number outside the range
    goes through it again until it is inside (format-preserving encryption by cycle walking, Black
    and Rogaway 2002, doi 10.1007/3-540-45760-7_9). So it takes no memory, any place is computed in
    constant time, and the order depends on `seed` and `length` alone, not on versions of
    libraries. It is not meant to be secret.

    Args:
        length: how many things there are.
        seed: seed of the order; None for no shuffling.

    >>> Shuffle(5, seed=7)(np.arange(10)).tolist()
    [2, 0, 1, 4, 3, 1, 4, 2, 3, 0]
    """

    def __init__(self, length: int, seed: int | None) -> None:
        self.length = length
        self.seed = seed

    def __call__(self, positions: ArrayLike) -> NDArray[np.int64]:
        """The things at some positions, `(n,)` int64; positions count from 0 over all epochs."""
        wanted: NDArray[np.int64] = np.asarray(positions, dtype=np.int64)
        epochs, numbers = wanted // self.length, wanted % self.length
        if self.seed is None:
            return numbers
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            numbers[here] = self._permuted(numbers[here], epoch)
        return numbers

    def _permuted(self, index: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        bits = (self.length - 1).bit_length()
        keys = [
            np.uint64(xxhash.xxh3_64_intdigest(f"{self.seed}/{epoch}/{number}".encode()))
            for number in range(ROUNDS)
        ]
        numbers = _mixed(index.astype(np.uint64), bits, keys)
        while len(outside := np.flatnonzero(numbers >= np.uint64(self.length))):
            numbers[outside] = _mixed(numbers[outside], bits, keys)
        return numbers.astype(np.int64)


def _mixed(numbers: NDArray[np.uint64], bits: int, keys: list[np.uint64]) -> NDArray[np.uint64]:
    """A one-to-one map of `bits`-bit numbers."""
    low = bits // 2
    for key in keys:
        high = bits - low
        right = numbers & np.uint64((1 << low) - 1)
        mixed = (right ^ key) * FACTORS[0]
        mixed ^= mixed >> HALF
        mixed *= FACTORS[1]
        mixed >>= np.uint64(64 - high) if high else np.uint64(63)
        left = (numbers >> np.uint64(low)) ^ (mixed if high else np.uint64(0))
        numbers = (right << np.uint64(high)) | left
        low = high
    return numbers

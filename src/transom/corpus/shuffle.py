"""A permutation of any length, computed where it is asked for."""

from __future__ import annotations

import numpy as np
import xxhash
from numpy.typing import ArrayLike, NDArray

__all__ = ["Shuffle"]

ROUNDS = 8  # even, so that the halves end as they began
FACTORS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
HALF = np.uint64(32)


class Shuffle:
    """The order in which `length` things come, epoch after epoch, each once in each of them.

    A Feistel network over the numbers below the next power of two; what falls outside goes through
    it again until it falls inside (format-preserving encryption by cycle walking, Black and
    Rogaway 2002, doi 10.1007/3-540-45760-7_9). So it takes no memory, any place in it is found at
    once, and it depends on `seed` and `length` and on nothing else, versions of libraries
    included. It is a shuffle, and no secret.

    Args:
        length: how many things there are.
        seed: of the order; None for the order they have.

    >>> Shuffle(5, seed=7)(np.arange(10)).tolist()
    [2, 0, 1, 4, 3, 1, 4, 2, 3, 0]
    """

    def __init__(self, length: int, seed: int | None) -> None:
        self.length = length
        self.seed = seed

    def __call__(self, positions: ArrayLike) -> NDArray[np.int64]:
        """What comes at some positions, `(n,)`, counted over all epochs, from 0."""
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
    """Numbers of so many bits to numbers of so many bits, one to one."""
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

"""How often keys were used lately, in a byte each."""

from __future__ import annotations

import sys
from collections.abc import Hashable

__all__ = ["FrequencySketch"]

ODD = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
MASK = (1 << 64) - 1
MOST = 15
HALVED = bytes(count // 2 for count in range(256))
SMALLEST = 64
PERIOD = 10  # counts per column after which all are halved


class FrequencySketch:
    """An upper estimate of how often a key was counted, at most 15; all counts are halved at times.

    A count-min sketch of four rows, which are widened with the number of keys. From Einziger,
    Friedman and Manes, "TinyLFU: a highly efficient cache admission policy" (ACM Transactions on
    Storage 2017, arXiv 1512.00727).
    """

    def __init__(self) -> None:
        self._rows = [bytearray(SMALLEST) for _ in ODD]
        self._counted = 0

    def widen(self, keys: int) -> None:
        """Have at least `keys` columns; estimates stay as they are."""
        while len(self._rows[0]) < keys:
            self._rows = [row + row for row in self._rows]

    def count(self, key: Hashable) -> None:
        """Count `key` once more."""
        places = self._places(key)
        least = min(row[place] for row, place in zip(self._rows, places, strict=True))
        if least < MOST:
            for row, place in zip(self._rows, places, strict=True):
                if row[place] == least:
                    row[place] += 1
        self._counted += 1
        if self._counted >= PERIOD * len(self._rows[0]):
            self._rows = [row.translate(HALVED) for row in self._rows]
            self._counted //= 2

    def estimate(self, key: Hashable) -> int:
        """How often `key` was counted, or more."""
        return min(row[place] for row, place in zip(self._rows, self._places(key), strict=True))

    @property
    def nbytes(self) -> int:
        return sum(sys.getsizeof(row) for row in self._rows)

    def _places(self, key: Hashable) -> list[int]:
        mixed = hash(key) & MASK
        last = len(self._rows[0]) - 1
        mixed ^= mixed >> 32
        return [((mixed * odd & MASK) >> 32) & last for odd in ODD]

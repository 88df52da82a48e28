"""Unknown entries: on the slow tier, but in memory only as a key and a hash of the id."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator

import numpy as np

__all__ = ["UnknownKeys"]


class UnknownKeys:
    """Keys in the order in which they are evicted, with the hashes of their context ids.

    A key may have become known, or left the tier, since it was added; callers check that.

    >>> unknown = UnknownKeys()
    >>> for key, hashed in ((7, 1), (8, 2), (9, 1)):
    ...     unknown.add(key, hashed)
    >>> unknown.of(1), unknown.pop(), len(unknown)
    ([9, 7], 7, 2)
    """

    def __init__(self) -> None:
        self._keys = array("Q")  # the first to leave stands last
        self._hashes = array("I")

    def add(self, key: int, hashed: int) -> None:
        """Add a key, which leaves last."""
        self._keys.insert(0, key)
        self._hashes.insert(0, hashed)

    def fill(self, items: Iterable[tuple[int, int]]) -> None:
        """Hold these keys and hashes and no others; the first of them leaves first."""
        self._keys, self._hashes = array("Q"), array("I")
        for key, hashed in items:
            self._keys.append(key)
            self._hashes.append(hashed)
        self._keys.reverse()
        self._hashes.reverse()

    def pop(self) -> int:
        """Take out the key that leaves first."""
        self._hashes.pop()
        return self._keys.pop()

    def of(self, hashed: int) -> list[int]:
        """The keys with this hash."""
        found = np.flatnonzero(np.array(self._hashes, dtype=np.uint32) == hashed)
        return [self._keys[at] for at in found]

    @property
    def nbytes(self) -> int:
        """Bytes of memory taken."""
        return sys.getsizeof(self._keys) + sys.getsizeof(self._hashes)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[int]:
        return iter(self._keys)

    def items(self) -> Iterator[tuple[int, int]]:
        """Keys and hashes, in the order that `fill` takes."""
        return zip(reversed(self._keys), reversed(self._hashes), strict=True)

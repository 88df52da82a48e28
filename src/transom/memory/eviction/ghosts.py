"""Keys that were evicted, remembered for a while without their data."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Hashable

from transom.memory.eviction.base import KEY, NUMBER

__all__ = ["Ghosts"]


class Ghosts:
    """Evicted keys and the sizes they had, the oldest first.

    Attributes:
        bytes: sum of the sizes that the keys had.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._sizes: OrderedDict[Hashable, int] = OrderedDict()

    def add(self, key: Hashable, size: int) -> None:
        """Add `key`, which is not here, as the newest."""
        self._sizes[key] = size
        self.bytes += size

    def forget(self, key: Hashable) -> bool:
        """Forget `key`; whether it was here."""
        size = self._sizes.pop(key, None)
        if size is None:
            return False
        self.bytes -= size
        return True

    def shrink(self, most: float) -> None:
        """Forget the oldest until at most `most` bytes are remembered."""
        while self.bytes > most and self._sizes:
            self.bytes -= self._sizes.popitem(last=False)[1]

    @property
    def nbytes(self) -> int:
        """Bytes of memory taken, with the keys, which nothing else holds."""
        return sys.getsizeof(self._sizes) + (KEY + NUMBER) * len(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._sizes

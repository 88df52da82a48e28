"""What LFU with aging and GreedyDual have in common: points that grow with use."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Hashable

from transom.memory.eviction.base import NUMBER, PAIR, Eviction, MayGo, Newcomer
from transom.memory.eviction.order import Order

__all__ = ["Valued"]


class Valued(Eviction):
    """The key with the fewest points leaves first; of equal ones, the one unused for longest.

    A use sets the points of a key to those of the last victim, plus its number of uses times the
    worth of one. So keys that are no longer used fall behind.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._uses = 0
        self._floor = 0.0  # points of the last victim
        self._values: dict[Hashable, tuple[int, float]] = {}  # uses, and the worth of one
        self._order = Order[tuple[float, int]](self._pins, rank_bytes=PAIR + 2 * NUMBER)

    @property
    def nbytes(self) -> int:
        values = sys.getsizeof(self._values) + (PAIR + NUMBER) * len(self._values)
        return super().nbytes + values + self._order.nbytes

    @abstractmethod
    def _worth(self, size: int, cost: float) -> float:
        """Points for a use, not negative."""

    def _add(self, key: Hashable, size: int, cost: float) -> None:
        worth = self._worth(size, cost)
        self._values[key] = (1, worth)
        self._order.put(key, self._rank(worth))

    def _touch(self, key: Hashable) -> None:
        uses, worth = self._values[key]
        self._values[key] = (uses + 1, worth)
        self._order.put_back(key, self._rank((uses + 1) * worth))

    def _unpinned(self, key: Hashable) -> None:
        self._order.unpinned(key)

    def _victim(self, newcomer: Newcomer | None, may_go: MayGo | None) -> Hashable | None:
        return self._order.first(may_go)

    def _remove(self, key: Hashable, size: int, evicted: bool) -> None:
        if evicted:
            self._floor = max(self._floor, self._order.rank(key)[0])
        del self._values[key]
        self._order.forget(key)

    def _rank(self, points: float) -> tuple[float, int]:
        self._uses += 1
        return (self._floor + points, self._uses)

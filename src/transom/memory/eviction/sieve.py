"""A queue with a hand that passes over keys that were used since it came by last."""

from __future__ import annotations

import sys
from collections.abc import Hashable
from typing import ClassVar

from transom.memory.eviction.base import NUMBER, PAIR, Eviction, MayGo, Newcomer
from transom.memory.eviction.order import Order

__all__ = ["Sieve"]


class Sieve(Eviction):
    """A hand goes from the oldest key to the newest and evicts what was not used since it passed.

    Keys stay where they were put. From Zhang, Yang, Yue, Vigfusson and Rashmi, "SIEVE is simpler
    than LRU" (USENIX NSDI 2024).

    >>> sieve = Sieve(capacity=300)
    >>> for key in "abac":
    ...     sieve.touch(key) if key in sieve else sieve.add(key, size=100)
    >>> sieve.victim()
    'b'
    """

    name: ClassVar[str] = "sieve"
    summary: ClassVar[str] = "a hand passes over what was used since it last came by"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._added = 0
        # A key's rank is the round in which the hand comes by next, and its place in the queue.
        self._order = Order[tuple[float, int]](self._pins, rank_bytes=PAIR + NUMBER)
        self._hand: tuple[float, int] = (0, 0)
        self._used: set[Hashable] = set()

    @property
    def nbytes(self) -> int:
        return super().nbytes + self._order.nbytes + sys.getsizeof(self._used)

    def _add(self, key: Hashable, size: int, cost: float) -> None:
        self._added += 1
        self._order.put(key, (self._hand[0], self._added))

    def _touch(self, key: Hashable) -> None:
        self._used.add(key)

    def _unpinned(self, key: Hashable) -> None:
        # The hand may have passed meanwhile.
        current, at = self._hand
        place = self._order.rank(key)[1]
        self._order.put(key, (current if place > at else current + 1, place))

    def _victim(self, newcomer: Newcomer | None, may_go: MayGo | None) -> Hashable | None:
        while (key := self._order.first(may_go)) is not None:
            self._hand = self._order.rank(key)
            if key not in self._used:
                break
            self._used.discard(key)
            current, place = self._hand
            self._order.put_back(key, (current + 1, place))
        return key

    def _remove(self, key: Hashable, size: int, evicted: bool) -> None:
        current, at = self._hand
        if self._order.rank(key)[1] == at:
            newest = next(reversed(self._sizes), None)
            if newest is None or self._order.rank(newest)[1] < at:
                self._hand = (current + 1, 0)  # at the end of the queue: what comes now is behind
        self._order.forget(key)
        self._used.discard(key)

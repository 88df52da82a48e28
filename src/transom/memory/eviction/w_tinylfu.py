"""Newcomers pass a window, then compete with held keys by how often both were used."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Hashable
from typing import ClassVar

from transom.memory.eviction.base import Eviction, MayGo, Newcomer
from transom.memory.eviction.order import Order
from transom.memory.eviction.sketch import FrequencySketch

__all__ = ["WTinyLFU"]

WINDOW = 0.01  # of the capacity
PROTECTED = 0.8  # of what is not the window's


class WTinyLFU(Eviction):
    """A window for newcomers; a key that leaves it must have been used more often than the victim.

    Behind the window are keys on probation. Keys used there are protected, up to a share of the
    room. Each part is in the order of use. From Einziger, Friedman and
    Manes, "TinyLFU: a highly efficient cache admission policy" (ACM Transactions on Storage 2017,
    arXiv 1512.00727).

    This is the only policy here that may refuse a newcomer: when the window has no room for it.
    Pinned keys leave the window without competing.

    >>> lfu = WTinyLFU(capacity=300)
    >>> for key in "aabbcc":
    ...     lfu.touch(key) if key in lfu else lfu.add(key, size=100)
    >>> lfu.victim(Newcomer("seen once", size=100))
    'seen once'
    """

    name: ClassVar[str] = "w-tinylfu"
    summary: ClassVar[str] = "newcomers must have been seen more often than what they replace"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._uses = 0
        self._sketch = FrequencySketch()
        self._window = LruSegment(self._pins, WINDOW * capacity)
        self._probation = LruSegment(self._pins, float(capacity))
        self._protected = LruSegment(self._pins, PROTECTED * (1 - WINDOW) * capacity)
        self._segments = (self._window, self._probation, self._protected)

    @property
    def nbytes(self) -> int:
        return super().nbytes + self._sketch.nbytes + sum(part.nbytes for part in self._segments)

    def _add(self, key: Hashable, size: int, cost: float) -> None:
        self._sketch.widen(len(self))
        self._sketch.count(key)
        self._put(self._window, key)
        # There is room, so keys that the window cannot hold need not compete.
        while self._window.excess > 0:
            self._move(self._window.oldest, self._window, self._probation)

    def _touch(self, key: Hashable) -> None:
        self._sketch.count(key)
        if key in self._probation.sizes:
            self._move(key, self._probation, self._protected)
            while self._protected.excess > 0:
                self._move(self._protected.oldest, self._protected, self._probation)
        else:
            self._uses += 1
            (self._window if key in self._window.sizes else self._protected).use(key, self._uses)

    def _unpinned(self, key: Hashable) -> None:
        self._part(key).order.unpinned(key)

    def _victim(self, newcomer: Newcomer | None, may_go: MayGo | None) -> Hashable | None:
        victim = self._probation.order.first(may_go)
        if victim is None:
            victim = self._protected.order.first(may_go)
        if victim is None:
            return self._window.order.first(may_go)
        coming = newcomer.size if newcomer is not None else 0
        if self._window.excess + coming <= 0:
            return victim
        if not self._window.sizes:
            return self._admitted(newcomer, victim)
        candidate = self._window.oldest
        if candidate in self._pins or (may_go is not None and not may_go(candidate)):
            return victim  # The candidate may not leave, so it passes.
        if self._sketch.estimate(candidate) <= self._sketch.estimate(victim):
            return candidate
        self._move(candidate, self._window, self._probation)
        return victim

    def _admitted(self, newcomer: Newcomer | None, victim: Hashable) -> Hashable:
        """`victim`, or the newcomer's own key when that has been seen less often."""
        if newcomer is None or self._sketch.estimate(newcomer.key) + 1 > self._sketch.estimate(
            victim
        ):
            return victim
        self._sketch.count(newcomer.key)
        return newcomer.key

    def _remove(self, key: Hashable, size: int, evicted: bool) -> None:
        self._part(key).remove(key)

    def _part(self, key: Hashable) -> LruSegment:
        return next(part for part in self._segments if key in part.sizes)

    def _put(self, part: LruSegment, key: Hashable) -> None:
        self._uses += 1
        part.put(key, self._sizes[key], self._uses)

    def _move(self, key: Hashable, source: LruSegment, target: LruSegment) -> None:
        source.remove(key)
        self._put(target, key)


class LruSegment:
    """Keys in the order of use, pinned ones included, with a share of the room."""

    def __init__(self, pins: dict[Hashable, int], most: float) -> None:
        self.sizes: OrderedDict[Hashable, int] = OrderedDict()
        self.order = Order[float](pins)  # of the keys that may leave
        self.excess = -most  # bytes beyond the share; negative while some are free

    @property
    def oldest(self) -> Hashable:
        return next(iter(self.sizes))

    @property
    def nbytes(self) -> int:
        return sys.getsizeof(self.sizes) + self.order.nbytes

    def put(self, key: Hashable, size: int, rank: int) -> None:
        self.sizes[key] = size
        self.excess += size
        self.order.put(key, rank)

    def use(self, key: Hashable, rank: int) -> None:
        self.sizes.move_to_end(key)
        self.order.put_back(key, rank)

    def remove(self, key: Hashable) -> None:
        self.excess -= self.sizes.pop(key)
        self.order.forget(key)

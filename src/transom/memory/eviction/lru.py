"""Least recently used, from the ends of chains."""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar

from transom.memory.eviction.base import Eviction, MayGo, Newcomer
from transom.memory.eviction.order import Order

__all__ = ["LRU"]


class LRU(Eviction):
    """The key that was unused for longest leaves first.

    With chains this is leaf-first LRU, as in SGLang (arXiv 2312.07104): of the blocks that no other
    continues and nobody reads, the one used least recently leaves.

    >>> lru = LRU(capacity=300)
    >>> for key in "abc":
    ...     lru.add(key, size=100)
    >>> lru.touch("a")
    >>> lru.victim()
    'b'
    >>> lru.pin("b")
    >>> lru.victim()
    'c'
    """

    name: ClassVar[str] = "lru"
    summary: ClassVar[str] = "least recently used"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._uses = 0
        self._order = Order[float](self._pins)

    @property
    def nbytes(self) -> int:
        return super().nbytes + self._order.nbytes

    def _add(self, key: Hashable, size: int, cost: float) -> None:
        self._uses += 1
        self._order.put(key, self._uses)

    def _touch(self, key: Hashable) -> None:
        self._uses += 1
        self._order.put_back(key, self._uses)

    def _unpinned(self, key: Hashable) -> None:
        self._order.unpinned(key)

    def _victim(self, newcomer: Newcomer | None, may_go: MayGo | None) -> Hashable | None:
        return self._order.first(may_go)

    def _remove(self, key: Hashable, size: int, evicted: bool) -> None:
        self._order.forget(key)

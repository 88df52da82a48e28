"""Three queues: a small one that filters newcomers, a main one, and one of evicted keys."""

from __future__ import annotations

import sys
from collections.abc import Hashable
from typing import ClassVar

from transom.memory.eviction.base import Eviction, MayGo, Newcomer
from transom.memory.eviction.ghosts import Ghosts
from transom.memory.eviction.order import Order

__all__ = ["S3FIFO"]

SMALL = 0.1  # of the capacity
MOST = 3  # uses that are counted
MOVES = 2  # uses that take a key from the small queue to the main one


class S3FIFO(Eviction):
    """Newcomers wait in a small queue and are evicted from there, unless they are used twice.

    Those that are used twice move to a main queue, where each use earns another round. A key that
    was evicted from the small queue is remembered, and goes to the main one if it comes back. From
    Yang, Zhang, Qiu,
    Yue and Rashmi, "FIFO queues are all you need for cache eviction" (SOSP 2023,
    https://doi.org/10.1145/3600006.3613147).

    >>> fifo = S3FIFO(capacity=300)
    >>> for key in "abaac":
    ...     fifo.touch(key) if key in fifo else fifo.add(key, size=100)
    >>> fifo.victim()
    'b'
    """

    name: ClassVar[str] = "s3-fifo"
    summary: ClassVar[str] = "a small queue sifts what may stay in a main one"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._placed = 0
        self._small = Order[float](self._pins)
        self._main = Order[float](self._pins)
        self._small_bytes = 0
        self._small_target = SMALL * capacity
        self._uses: dict[Hashable, int] = {}  # since the key was placed where it is
        self._gone = Ghosts()

    @property
    def nbytes(self) -> int:
        queues = self._small.nbytes + self._main.nbytes + self._gone.nbytes
        return super().nbytes + queues + sys.getsizeof(self._uses)

    def _add(self, key: Hashable, size: int, cost: float) -> None:
        if self._gone.forget(key):
            self._place(self._main, key)
        else:
            self._place(self._small, key)
            self._small_bytes += size

    def _touch(self, key: Hashable) -> None:
        self._uses[key] = min(MOST, self._uses.get(key, 0) + 1)

    def _unpinned(self, key: Hashable) -> None:
        (self._main if key in self._main else self._small).unpinned(key)

    def _victim(self, newcomer: Newcomer | None, may_go: MayGo | None) -> Hashable | None:
        found = None
        if self._small_bytes < self._small_target:
            found = self._spent(may_go)
        if found is None:
            found = self._sifted(may_go)
        # Sifting may have moved all there was to the main queue.
        return found if found is not None else self._spent(may_go)

    def _remove(self, key: Hashable, size: int, evicted: bool) -> None:
        self._uses.pop(key, None)
        if key in self._main:
            self._main.forget(key)
            return
        self._small.forget(key)
        self._small_bytes -= size
        if evicted:
            self._gone.add(key, size)
            self._gone.shrink(self.capacity - self._small_target)

    def _sifted(self, may_go: MayGo | None) -> Hashable | None:
        """The next to leave the small queue; those used more than once move to the main one."""
        while (key := self._small.first(may_go)) is not None:
            if self._uses.get(key, 0) < MOVES:
                break
            del self._uses[key]
            self._small.forget(key)
            self._small_bytes -= self._sizes[key]
            self._place(self._main, key)
        return key

    def _spent(self, may_go: MayGo | None) -> Hashable | None:
        """The next to leave the main queue; those used since go round once more for each use."""
        while (key := self._main.first(may_go)) is not None:
            uses = self._uses.get(key, 0)
            if not uses:
                break
            self._uses[key] = uses - 1
            self._placed += 1
            self._main.put_back(key, self._placed)
        return key

    def _place(self, queue: Order[float], key: Hashable) -> None:
        self._placed += 1
        queue.put(key, self._placed)

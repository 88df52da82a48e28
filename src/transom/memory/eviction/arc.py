"""Adaptive replacement: recent and frequent keys share the room, in adaptive parts."""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar

from transom.memory.eviction.base import Eviction, MayGo, Newcomer
from transom.memory.eviction.ghosts import Ghosts
from transom.memory.eviction.order import Order

__all__ = ["ARC"]


class ARC(Eviction):
    """Keys used once and keys used more often, each in the order of use.

    Keys used once have a share of the capacity. If a newcomer was evicted from one of the two
    parts before, that part was too small, and its share grows. From Megiddo and Modha, "ARC: a
    self-tuning, low overhead replacement cache" (USENIX FAST 2003), with bytes in place of pages.

    Attributes:
        share: bytes that keys used once should have.

    >>> arc = ARC(capacity=300)
    >>> for key in "aabc":
    ...     arc.touch(key) if key in arc else arc.add(key, size=100)
    >>> arc.victim()
    'b'
    """

    name: ClassVar[str] = "arc"
    summary: ClassVar[str] = "recent and frequent keys, balanced by what was evicted too early"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.share = 0.0
        self._uses = 0
        self._once = Order[float](self._pins)
        self._often = Order[float](self._pins)
        self._once_bytes = 0
        self._once_gone = Ghosts()
        self._often_gone = Ghosts()
        self._known: Hashable | None = None  # the newcomer that the share has been adapted to

    @property
    def nbytes(self) -> int:
        parts = (self._once, self._often, self._once_gone, self._often_gone)
        return super().nbytes + sum(part.nbytes for part in parts)

    def _add(self, key: Hashable, size: int, cost: float) -> None:
        self._adapt(key, size)
        self._known = None
        self._uses += 1
        if self._once_gone.forget(key) or self._often_gone.forget(key):
            self._often.put(key, self._uses)
        else:
            self._once.put(key, self._uses)
            self._once_bytes += size
        self._forget()

    def _touch(self, key: Hashable) -> None:
        self._uses += 1
        if key in self._often:
            self._often.put_back(key, self._uses)
        else:
            self._once.forget(key)
            self._once_bytes -= self._sizes[key]
            self._often.put(key, self._uses)

    def _unpinned(self, key: Hashable) -> None:
        (self._often if key in self._often else self._once).unpinned(key)

    def _victim(self, newcomer: Newcomer | None, may_go: MayGo | None) -> Hashable | None:
        if newcomer is not None:
            self._adapt(newcomer.key, newcomer.size)
        often_wanted = newcomer is not None and newcomer.key in self._often_gone
        too_many = self._once_bytes > self.share or (
            often_wanted and self._once_bytes == self.share
        )
        orders = (self._once, self._often) if too_many else (self._often, self._once)
        found = orders[0].first(may_go)
        return found if found is not None else orders[1].first(may_go)

    def _remove(self, key: Hashable, size: int, evicted: bool) -> None:
        once = key in self._once
        if once:
            self._once.forget(key)
            self._once_bytes -= size
        else:
            self._often.forget(key)
        if evicted:
            (self._once_gone if once else self._often_gone).add(key, size)
            self._forget()

    def _adapt(self, key: Hashable, size: int) -> None:
        """Move the share towards the keys from which a newcomer was evicted, once per newcomer."""
        if key == self._known:
            return
        self._known = key
        once, often = self._once_gone, self._often_gone
        if key in once:
            self.share = min(float(self.capacity), self.share + size * _ratio(often, once))
        elif key in often:
            self.share = max(0.0, self.share - size * _ratio(once, often))

    def _forget(self) -> None:
        """Remember as many evicted keys as the capacity could hold, used once and in all."""
        self._once_gone.shrink(max(0, self.capacity - self._once_bytes))
        known = self.bytes + self._once_gone.bytes
        self._often_gone.shrink(max(0, 2 * self.capacity - known))


def _ratio(much: Ghosts, little: Ghosts) -> float:
    return max(1.0, much.bytes / max(1, little.bytes))

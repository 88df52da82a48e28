"""One tier with the order in which entries leave it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from transom.memory.entry import Entry
from transom.memory.eviction.base import Eviction, Newcomer
from transom.memory.tiers.base import Tier

__all__ = ["TierWithEviction"]

TierT = TypeVar("TierT", bound=Tier, covariant=True)


class TierWithEviction(Generic[TierT]):
    """Which entries a tier holds, and which of them leaves first.

    While an entry is here, the entry that it continues is pinned, so that chains are evicted from
    their ends.

    Attributes:
        payloads: the tier itself, payloads by key.
        eviction: the order in which entries leave.
        held: entries by key.
        hits: how many payloads were read here.
        evicted: how many entries were evicted.
    """

    def __init__(self, payloads: TierT, eviction: Eviction) -> None:
        self.payloads = payloads
        self.eviction = eviction
        self.held: dict[Hashable, Entry] = {}
        self.hits = 0
        self.evicted = 0

    @property
    def name(self) -> str:
        """The name of the tier: `ram` or `disk`."""
        return self.payloads.name

    def add(self, entry: Entry) -> None:
        """The tier now holds `entry`."""
        self.held[entry.key] = entry
        self.eviction.add(entry.key, entry.size, entry.cost)
        for _ in range(entry.pins):
            self.eviction.pin(entry.key)
        above = entry.above
        if above is not None:
            self.eviction.pin(above.key)

    def forget(self, entry: Entry, *, evicted: bool = False, delete: bool = True) -> None:
        """Hold `entry` no longer. Nothing here may continue it.

        Args:
            entry: what is held here.
            evicted: whether it was evicted; the eviction policy may remember it then.
            delete: whether to delete its payload as well.
        """
        del self.held[entry.key]
        self.eviction.remove(entry.key, evicted=evicted)
        above = entry.above
        if above is not None:
            self.eviction.unpin(above.key)
        self.evicted += evicted
        if delete and self.payloads.writable and entry.key in self.payloads:
            del self.payloads[entry.key]

    def with_room(
        self, entry: Entry, attempt: Callable[[], bool], evict: Callable[[Entry], None]
    ) -> bool:
        """Evict until `attempt` succeeds; False when nothing more may leave.

        Args:
            entry: what room is made for.
            attempt: stores it, if there is room.
            evict: evicts one entry.
        """
        newcomer = Newcomer(entry.key, entry.size, entry.cost)
        while True:
            key = self.eviction.victim(newcomer, self.may_go)
            if key is None or key == entry.key:
                return False
            evict(self.held[key])
            if attempt():
                return True

    def may_go(self, key: Hashable) -> bool:
        """Whether nobody else, in this process or another, needs `key` to stay."""
        return self.payloads.may_go(self.held[key].key)

    def __contains__(self, entry: object) -> bool:
        return isinstance(entry, Entry) and self.held.get(entry.key) is entry

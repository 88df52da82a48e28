"""One tier with the order in which entries leave it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from transom.memory.entry import Entry
from transom.memory.eviction.base import Eviction, Newcomer
from transom.memory.tiers.base import Tier

__all__ = ["TierWithEviction"]

T = TypeVar("T", bound=Tier)


class TierWithEviction(Generic[T]):
    """Which entries a tier holds, and which of them leaves first.

    What an entry continues is pinned as long as the entry is here, so that chains leave from
    their ends.

    Attributes:
        tier: where the payloads are.
        eviction: the order in which they leave.
        held: entries by key.
        hits: how often one was read here.
        evicted: how many had to leave.
        following: whether the tier is ahead, and what it should hold is only being learnt.
        keep: what is not to leave for what comes next, which continues it.
    """

    def __init__(self, tier: T, eviction: Eviction) -> None:
        self.tier = tier
        self.eviction = eviction
        self.held: dict[Hashable, Entry] = {}
        self.hits = 0
        self.evicted = 0
        self.keep: Entry | None = None
        self.following = False

    def add(self, entry: Entry) -> None:
        """The tier now holds `entry`."""
        self.held[entry.key] = entry
        self.eviction.add(entry.key, entry.size, entry.cost)
        for _ in range(entry.pins):
            self.eviction.pin(entry.key)
        above = entry.above
        if above is not None:
            self.eviction.pin(above.key)

    def drop(self, entry: Entry, *, evicted: bool = False) -> None:
        """Delete `entry`, which is held here, and which nothing here continues."""
        self.leave(entry, evicted=evicted)
        self.evicted += evicted
        if not self.following and self.tier.writable and entry.key in self.tier:
            del self.tier[entry.key]

    def leave(self, entry: Entry, *, evicted: bool = False) -> None:
        """Know `entry`, which nothing here continues, no longer as one that is held."""
        del self.held[entry.key]
        self.eviction.remove(entry.key, evicted=evicted)
        above = entry.above
        if above is not None:
            self.eviction.unpin(above.key)

    def with_room(
        self, entry: Entry, attempt: Callable[[], bool], evict: Callable[[Entry], None]
    ) -> bool:
        """Evict until `attempt` succeeds; False when nothing more may leave.

        Args:
            entry: for what room is made.
            attempt: takes the room, if there is enough.
            evict: makes an entry leave.
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
        """Whether `key` may leave, and it would help if it did."""
        entry = self.held[key]
        return entry is not self.keep and self.tier.may_go(entry.key)

    def __contains__(self, entry: object) -> bool:
        return isinstance(entry, Entry) and self.held.get(entry.key) is entry

"""The tables of an entry store: which entries are held, and where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from transom.errors import StoreError
from transom.memory.entry import Entry, Namespace
from transom.memory.resting import Resting
from transom.memory.tier_with_eviction import TierWithEviction
from transom.memory.tiers.base import Tier
from transom.memory.unknown import UnknownKeys

if TYPE_CHECKING:
    from transom.memory.tiers.ram import RamTier

__all__ = ["EntryTables"]


class EntryTables:
    """Entries by namespace and by tier, in use or at rest.

    An entry *in use* is an `Entry`. An entry *at rest* is only on the slow tier, and is one row of
    numbers. An *unknown* entry is on the slow tier too, but there is no memory for its row.

    Attributes:
        fast: the tier in memory.
        slow: the tier below it; None without one.
        tiers: both, the fastest first.
        spaces: namespaces by name.
        expiring: entries by the time at which they expire, as a heap; forgotten ones may be left.
        resting: entries at rest.
        unknown: keys of unknown entries.
        idle: entries in use that may be put to rest.
        perhaps_unneeded: keys of entries that may no longer be needed; to be checked later.
        to_delete: keys whose payloads are to be deleted from the slow tier later.
        syncing: whether other processes changed the slow tier in ways not learnt yet.
    """

    def __init__(
        self, fast: TierWithEviction[RamTier], slow: TierWithEviction[Tier] | None
    ) -> None:
        self.fast = fast
        self.slow = slow
        self.tiers: list[TierWithEviction[Tier]] = [fast] if slow is None else [fast, slow]
        self.spaces: dict[str, Namespace] = {}
        self.expiring: list[tuple[float, int, Entry]] = []
        self.resting = Resting(fast.payloads if slow is None else slow.payloads)
        self.unknown = UnknownKeys()
        self.idle: dict[int, Entry] = {}
        self.perhaps_unneeded: list[int] = []
        self.to_delete: list[int] = []
        self.syncing = False

    @property
    def below(self) -> TierWithEviction[Tier]:
        """The slow tier, where there must be one."""
        assert self.slow is not None
        return self.slow

    def __iter__(self) -> Iterator[Entry]:
        """Every entry in use, once, in no order."""
        yield from self.fast.held.values()
        if self.slow is not None:
            yield from (e for e in self.slow.held.values() if e not in self.fast)

    @property
    def contexts(self) -> int:
        """How many contexts are held, at rest or not."""
        return sum(space.contexts for space in self.spaces.values())

    def holds(self, entry: Entry) -> bool:
        """Whether `entry` is in any tier."""
        return entry in self.fast or (self.slow is not None and entry in self.slow)

    def only_below(self, entry: Entry) -> bool:
        """Whether `entry` is on the slow tier only."""
        return self.slow is not None and entry in self.slow and entry not in self.fast

    def knows(self, key: int) -> bool:
        """Whether the entry of `key` on the slow tier is in use or at rest, not unknown."""
        return key in self.below.held or key in self.resting

    @property
    def settled(self) -> bool:
        """Whether all changes by other processes are known, and they can make none now."""
        return self.slow is None or (self.slow.payloads.steady and not self.syncing)

    def note_idle(self, entry: Entry) -> None:
        """Note that `entry` may be put to rest, if it is on the slow tier only."""
        if self.only_below(entry):
            self.idle[entry.key] = entry

    def add_resting_kids(self, entry: Entry, more: int) -> None:
        """One more, or one fewer, entry at rest continues `entry`, which may not leave before it.

        Args:
            entry: on the slow tier.
            more: 1 or -1.
        """
        entry.resting_kids += more
        if more > 0:
            self.below.eviction.pin(entry.key)
        else:
            self.below.eviction.unpin(entry.key)

    def check_removable(self, name: str, below: bool) -> None:
        """Check that the context `name` may be removed.

        Args:
            name: its id.
            below: whether it is on the slow tier.

        Raises:
            StoreError: when it is, and that tier is read-only.
        """
        if below and not self.below.payloads.writable:
            raise StoreError(
                f"{name!r} is in a store that cannot be written to, so it can be neither "
                "removed nor replaced; make the folder writable."
            )

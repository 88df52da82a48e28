"""Forgetting entries: out of the tables, and out of the tiers that still have them."""

from __future__ import annotations

from transom.memory.entry import Entry
from transom.memory.entry_header import NAMELESS, STATE
from transom.memory.entry_tables import EntryTables
from transom.memory.overhead import Overhead
from transom.memory.row import HAS_STATE
from transom.memory.tier_with_eviction import TierWithEviction
from transom.memory.tiers.base import Tier

__all__ = ["Forgetting"]


class Forgetting:
    """Forgets entries in use and at rest, and what only they continued.

    An entry without a name is there only for those that continue it. When the last of these is
    forgotten it is forgotten too. While other processes may have continued it in ways that are not
    learnt yet, its key is put aside in `tables.perhaps_unneeded`.
    """

    def __init__(self, tables: EntryTables, overhead: Overhead) -> None:
        self._tables = tables
        self._overhead = overhead

    # Entries in use

    def forget(self, entry: Entry) -> None:
        """Take `entry`, which has left its last tier, out of the tables."""
        space = entry.space
        space.bytes -= entry.size
        if entry.name is not None and not entry.is_state and space.names.get(entry.name) is entry:
            del space.names[entry.name]
        if entry.listed:
            del space.blocks[entry.key]
        entry.unlink()
        self._overhead.forget(entry)
        above = entry.above
        if above is not None:
            self.forget_unneeded(above)
            self._tables.note_idle(above)

    def forget_everywhere(self, entry: Entry) -> None:
        """Delete `entry`, which nothing continues, from every tier that still has it."""
        tiers = [tier for tier in self._tables.tiers if entry in tier]
        for tier in tiers:
            tier.forget(entry)
        if tiers:
            self.forget(entry)

    def forget_unneeded(self, entry: Entry) -> None:
        """Forget `entry` if it has no name and nothing continues or pins it."""
        if entry.name is None and entry.is_leaf and not entry.pins:
            if self._tables.settled:
                self.forget_everywhere(entry)
            else:
                self._tables.perhaps_unneeded.append(entry.key)

    def forget_name(self, entry: Entry) -> None:
        """`entry` no longer ends a context."""
        assert entry.name is not None
        del entry.space.names[entry.name]
        self._overhead.rename(entry, None)

    def forget_copy(self, tier: TierWithEviction[Tier], entry: Entry) -> None:
        """Forget the copy of `entry` in one tier, with the copies there that continue it.

        Entries without another copy are forgotten.
        """
        for kid in [*entry.kids, *([entry.state] if entry.state is not None else [])]:
            if kid in tier:
                self.forget_copy(tier, kid)
        if tier is self._tables.slow and entry.resting_kids:
            for row in self._tables.resting.kids(entry.key):
                self.forget_row_with_kids(row.key)
        if entry in tier:
            tier.forget(entry)
            if not self._tables.holds(entry):
                self.forget(entry)
            else:
                self._tables.note_idle(entry)

    # Entries at rest

    def forget_row(self, key: int, *, evicted: bool = False, delete_later: bool = False) -> None:
        """Forget `key`, which is at rest and which nothing continues, and delete its payload.

        Args:
            key: of the entry.
            evicted: whether it is evicted, for the count.
            delete_later: delete the payload in `forget_put_aside`, if it is still there and nobody
                has stored another one under the key.
        """
        tables, slow = self._tables, self._tables.below
        row = tables.resting.forget(key)
        row.space.bytes -= row.size
        slow.evicted += evicted
        if delete_later:
            tables.to_delete.append(key)
        elif slow.payloads.writable and key in slow.payloads:
            del slow.payloads[key]
        if row.above:
            self._kid_forgotten(row.above, bool(row.flags & STATE))

    def _kid_forgotten(self, key: int, state: bool) -> None:
        """An entry at rest that continued `key`, or was its state, is forgotten."""
        tables = self._tables
        entry = tables.below.held.get(key)
        if entry is not None:
            tables.add_resting_kids(entry, -1)
            self.forget_unneeded(entry)
            tables.note_idle(entry)
        elif key in tables.resting:
            if state:
                tables.resting.flag(key, HAS_STATE, on=False)
            tables.resting.add_kids(key, -1)
            self.forget_unneeded_row(key)

    def forget_unneeded_row(self, key: int) -> None:
        """Forget `key`, which may be at rest, if it has no name and nothing continues it."""
        row = self._tables.resting.get(key)
        if row is not None and not row.kids and row.flags & NAMELESS:
            if self._tables.settled:
                self.forget_row(key)
            else:
                self._tables.perhaps_unneeded.append(key)

    def forget_row_with_kids(self, key: int, *, delete_later: bool = False) -> None:
        """Forget `key`, which is at rest and whose payload is damaged or gone, and its kids."""
        resting = self._tables.resting
        row = resting.get(key)
        if row is not None and row.kids:
            for kid in resting.kids(key):
                self.forget_row_with_kids(kid.key, delete_later=delete_later)
        if key in resting:  # Without a name it may be forgotten with its last kid.
            self.forget_row(key, delete_later=delete_later)

    # Later

    def forget_put_aside(self) -> None:
        """Forget the entries that were put aside, if nothing can need them any more."""
        tables, slow = self._tables, self._tables.slow
        if slow is None or not slow.payloads.steady or not slow.payloads.writable:
            return
        keys, tables.perhaps_unneeded = tables.perhaps_unneeded, []
        for key in keys:
            entry = slow.held.get(key) or tables.fast.held.get(key)
            if entry is not None:
                self.forget_unneeded(entry)
            else:
                self.forget_unneeded_row(key)
        keys, tables.to_delete = tables.to_delete, []
        for key in keys:
            if key in slow.payloads and not tables.knows(key):
                del slow.payloads[key]

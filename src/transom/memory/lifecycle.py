"""The life of an entry after it was put: pins, expiry, removal."""

from __future__ import annotations

import math
import time
from heapq import heapify, heappop, heappush

from transom.memory.entry import Entry, Namespace
from transom.memory.entry_header import NAMELESS, STATE, EntryHeader
from transom.memory.entry_tables import EntryTables
from transom.memory.forgetting import Forgetting
from transom.memory.overhead import Overhead
from transom.memory.row import HAS_STATE, Row
from transom.memory.unknown_entries import UnknownEntries

__all__ = ["Lifecycle"]


class Lifecycle:
    """Pins entries, removes contexts, and forgets what has expired.

    Attributes:
        expired: how many entries have expired.
    """

    def __init__(
        self,
        tables: EntryTables,
        overhead: Overhead,
        unknown: UnknownEntries,
        forgetting: Forgetting,
    ) -> None:
        self.expired = 0
        self._tables = tables
        self._overhead = overhead
        self._unknown = unknown
        self._forgetting = forgetting
        self._pushed = 0  # so that no two items of the heap are equal

    def add_names(self, entry: Entry) -> None:
        """Have `entry` found by its id and first block, and have it expire when its time is up."""
        space = entry.space
        if not entry.is_state and entry.name is not None:
            space.names[entry.name] = entry
        if entry.listed:
            space.blocks[entry.key] = entry
        if entry.expires is not math.inf:
            tables = self._tables
            if len(tables.expiring) > 2 * self._overhead.entries + 64:
                tables.expiring = [item for item in tables.expiring if tables.holds(item[2])]
                heapify(tables.expiring)
            self._pushed += 1
            heappush(tables.expiring, (entry.expires, self._pushed, entry))

    # Pins

    def pin(self, entry: Entry) -> None:
        """Keep `entry` in every tier that it is in."""
        entry.pins += 1
        for tier in self._tables.tiers:
            if entry in tier:
                tier.eviction.pin(entry.key)

    def unpin(self, entry: Entry) -> None:
        """Take one pin off `entry`; without a name and kids, it is forgotten with the last."""
        entry.pins -= 1
        for tier in self._tables.tiers:
            if entry in tier:
                tier.eviction.unpin(entry.key)
        self._forgetting.forget_unneeded(entry)
        self._tables.note_idle(entry)

    def pin_for_all(self, entry: Entry) -> None:
        """Like `pin`, in every process that shares the slow tier."""
        self.pin(entry)
        if self._tables.slow is not None:
            self._tables.slow.payloads.pin(entry.key)

    def unpin_for_all(self, entry: Entry) -> None:
        """Take one pin of `pin_for_all` off."""
        self.unpin(entry)
        if self._tables.slow is not None:
            self._tables.slow.payloads.unpin(entry.key)

    # Expiry

    @property
    def next_expiry(self) -> float:
        """When an entry may expire next, in seconds of the monotonic clock."""
        queue = self._tables.expiring
        return min(queue[0][0] if queue else math.inf, self._tables.resting.soonest)

    def expire(self) -> None:
        """Remove the contexts and states whose time is up."""
        tables = self._tables
        while tables.expiring and tables.expiring[0][0] <= time.monotonic():
            entry = heappop(tables.expiring)[2]
            if entry.name is None or not tables.holds(entry):
                continue
            self.expired += 1
            if entry.is_state:
                self._forgetting.forget_everywhere(entry)
            else:
                self._remove_entry(entry)
        for row in tables.resting.expired(time.monotonic()):
            if row.key in tables.resting:  # A state may be gone with its context.
                self.expired += 1
                if row.flags & STATE:
                    self._forgetting.forget_row(row.key)
                elif not row.flags & NAMELESS:
                    self._remove_row(row)

    # Removal

    def remove_context(self, space: Namespace, name: str) -> bool:
        """Remove a context and its state, also one that is at rest or unknown.

        What other contexts continue stays without a name.

        Returns:
            Whether there was such a context.

        Raises:
            StoreError: when it is on a tier that is read-only.
        """
        unknown = self._unknown.remove(space.name, name)
        entry = space.names.get(name)
        if entry is not None:
            self._remove_entry(entry)
            return True
        found = self._tables.resting.named(space, name) if space.resting else None
        if found is not None:
            self._remove_row(found[0])
        return unknown or found is not None

    def remove_state(self, space: Namespace, name: str) -> None:
        """Remove the state of a context, if it has one."""
        self._unknown.remove(space.name, name, states_only=True)
        entry = space.names.get(name)
        if entry is not None and entry.state is not None:
            self._forgetting.forget_everywhere(entry.state)
        resting = self._tables.resting
        found = resting.named(space, name) if entry is None and space.resting else None
        if found is not None:
            self._remove_resting_state(*found)

    def clear(self, space: Namespace) -> int:
        """Remove all contexts of a namespace but unknown ones; how many there were."""
        entries = list(space.names.values())
        for entry in entries:
            self._remove_entry(entry)
        rows = [row for row in self._tables.resting if row.space is space and row.named]
        for row in rows:
            self._remove_row(row)
        return len(entries) + len(rows)

    def _remove_entry(self, entry: Entry) -> None:
        tables, slow = self._tables, self._tables.slow
        assert entry.name is not None
        tables.check_removable(entry.name, slow is not None and entry in slow)
        if entry.state is not None:
            self._forgetting.forget_everywhere(entry.state)
        if entry.is_leaf:
            self._forgetting.forget_everywhere(entry)
            return
        if slow is not None and entry in slow:
            header = EntryHeader.unpack(slow.payloads.header(entry.key))
            if header is not None:  # Otherwise it is damaged, as reading it will show.
                slow.payloads.replace_header(entry.key, header._replace(nameless=True).pack())
        self._forgetting.forget_name(entry)

    def _remove_row(self, row: Row) -> None:
        tables, forgetting = self._tables, self._forgetting
        header = tables.resting.header(row.key)
        if header is None:
            forgetting.forget_row_with_kids(row.key)
            return
        tables.check_removable(header.name, True)
        self._remove_resting_state(row, header)
        if tables.resting.add_kids(row.key, 0):
            nameless = header._replace(nameless=True)
            tables.below.payloads.replace_header(row.key, nameless.pack())
            tables.resting.forget_name(row.key)
        else:
            forgetting.forget_row(row.key)

    def _remove_resting_state(self, row: Row, header: EntryHeader) -> None:
        if row.flags & HAS_STATE:
            state = self._tables.resting.state(row.key, row.space, header.name)
            if state is not None:
                self._forgetting.forget_row(state.key)

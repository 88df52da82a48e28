"""Entries in tiers: found, read and put."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from transom.memory.byte_budget import ByteBudget
from transom.memory.entry import Entry, Namespace
from transom.memory.entry_header import LISTED
from transom.memory.entry_tables import EntryTables
from transom.memory.forgetting import Forgetting
from transom.memory.lifecycle import Lifecycle
from transom.memory.overhead import Overhead
from transom.memory.placement import Placement
from transom.memory.rest import Rest
from transom.memory.slow_eviction import SlowEviction
from transom.memory.tier_with_eviction import TierWithEviction
from transom.memory.tiers.base import Tier
from transom.memory.tiers.ram import RamTier
from transom.memory.tree import key_hash
from transom.memory.unknown_entries import UnknownEntries

__all__ = ["EntryStore"]

MANY_SPACES = 64  # namespaces from which on empty ones are looked for


class EntryStore:
    """Entries in memory and, with a slow tier, below it.

    An entry that is evicted from memory goes to the slow tier, unless it is there already, and is
    at rest there: only a row of numbers is kept of it. Looking it up wakes it and what it continues
    for as long as they are in use. An entry that leaves its last tier is forgotten, and so is what
    only it continued.

    Attributes:
        tables: which entries are held, and where.
        overhead: bytes of the tables.
        unknown: entries on the slow tier without a row in memory.
        forgetting: takes entries out of the tables.
        lifecycle: pins, expiry and removal.
        rest: puts entries to rest and wakes them.
        placement: puts entries into tiers, and evicts.
        dtype: in which tokens are held.

    Notes:
        Has no lock of its own; callers hold the manager's.
    """

    def __init__(
        self,
        budget: ByteBudget,
        fast: TierWithEviction[RamTier],
        slow: TierWithEviction[Tier] | None,
        dtype: np.dtype[np.integer],
        through: bool,
        quotas: Mapping[str, int],
        salt: int,
    ) -> None:
        self.dtype = dtype
        self.tables = tables = EntryTables(fast, slow)
        self.overhead = Overhead(budget, tables, lambda: self.placement.evict_one())
        self.unknown = UnknownEntries(tables)
        self.forgetting = Forgetting(tables, self.overhead)
        self.lifecycle = Lifecycle(tables, self.overhead, self.unknown, self.forgetting)
        slow_eviction = SlowEviction(tables, self.unknown, self.forgetting)
        self.rest = Rest(
            tables, self.overhead, self.unknown, self.forgetting, self.lifecycle, slow_eviction
        )
        self.placement = Placement(
            tables,
            self.overhead,
            self.forgetting,
            self.lifecycle,
            slow_eviction,
            self.rest,
            dtype,
            through,
        )
        self._quotas = quotas
        self._salt = salt
        self._tried = 0
        self._many_spaces = MANY_SPACES
        self.overhead.open()

    def space(self, name: str) -> Namespace:
        """The namespace of that name; those without entries are forgotten now and then."""
        spaces = self.tables.spaces
        found = spaces.get(name)
        if found is None:
            if len(spaces) >= self._many_spaces:
                kept = {k: held for k, held in spaces.items() if held.bytes or held.contexts}
                for key, space in spaces.items():
                    if key not in kept:
                        self.tables.resting.forget_space(space)
                spaces.clear()
                spaces.update(kept)
                self._many_spaces = max(MANY_SPACES, 2 * len(kept))
            found = Namespace(name, key_hash(name, self._salt), self._quotas.get(name))
            spaces[name] = found
            self.overhead.space_added()
        return found

    def free_key(self, key: int, *parts: str) -> int:
        """`key`, or a new one made of `parts` where it is taken."""
        fast, slow = self.tables.fast, self.tables.slow
        while key in fast.held or (slow is not None and key in slow.payloads):
            self._tried += 1
            key = key_hash(*parts, self._tried, time.monotonic_ns())
        return key

    # Looking entries up

    def named(self, space: Namespace, name: str) -> Entry | None:
        """The entry that a context ends with; None when it is not held."""
        entry = space.names.get(name)
        if entry is None and space.resting:
            found = self.tables.resting.named(space, name)
            entry = None if found is None else self.rest.wake(found[0].key, found[1])
        return entry

    def listed(self, space: Namespace, key: int) -> Entry | None:
        """The entry that a namespace has under the hash of its first block; None without one."""
        entry = space.blocks.get(key)
        if entry is None and space.resting:
            row = self.tables.resting.get(key)
            if row is not None and row.space is space and row.flags & LISTED:
                entry = self.rest.wake(key)
        return entry

    def kids(self, entry: Entry) -> list[Entry]:
        """Every entry that continues `entry`."""
        if entry.resting_kids:
            for row in self.tables.resting.kids(entry.key):
                self.rest.wake(row.key)
        return entry.kids

    # Reading

    def tokens(self, entry: Entry) -> NDArray[np.generic] | None:
        """The own tokens of `entry`, `(tokens,)`; None when they were found damaged."""
        payload = self.placement.read(entry)
        return None if payload is None else payload.view(self.dtype)

    def token_pieces(self, entry: Entry) -> list[NDArray[np.generic]]:
        """The own tokens of `entry` in the pieces that memory holds, without a copy."""
        fast = self.tables.fast
        if fast.held.get(entry.key) is entry:
            return [piece.view(self.dtype) for piece in fast.payloads.pieces(entry.key)]
        tokens = self.tokens(entry)
        return [] if tokens is None else [tokens]

    def touch(self, entry: Entry) -> None:
        """Tell the eviction policies that `entry`, and all that it continues, was used."""
        at: Entry | None = entry
        fast, slow = self.tables.fast, self.tables.slow
        while at is not None:
            if fast.held.get(at.key) is at:
                fast.eviction.touch(at.key)
            if slow is not None and slow.held.get(at.key) is at:
                slow.eviction.touch(at.key)
            at = at.above

"""Evicting entries from the slow tier, to make room there."""

from __future__ import annotations

import logging

from transom.memory.entry import Entry, Namespace
from transom.memory.entry_tables import EntryTables
from transom.memory.forgetting import Forgetting
from transom.memory.rate_limited_log import RateLimitedLog
from transom.memory.unknown_entries import UnknownEntries

__all__ = ["SlowEviction"]

logger = logging.getLogger("transom.memory")


class SlowEviction:
    """Evicts from the slow tier: first unknown entries, then those at rest, then those in use."""

    def __init__(
        self, tables: EntryTables, unknown: UnknownEntries, forgetting: Forgetting
    ) -> None:
        self._tables = tables
        self._unknown = unknown
        self._forgetting = forgetting
        self._pressure = RateLimitedLog(
            logger,
            logging.INFO,
            "%d entries were evicted from the %s tier, which is full (%s bytes)",
        )

    def evict_entry(self, entry: Entry) -> None:
        """Evict `entry`, which is in use; a copy in memory stays there."""
        self._tables.below.forget(entry, evicted=True)
        self._count()
        if entry not in self._tables.fast:
            self._forgetting.forget(entry)

    def evict_resting(self, space: Namespace | None = None) -> int:
        """Evict the entry that has been at rest for longest; its bytes, 0 if none may leave.

        Args:
            space: only an entry of this namespace; None for any.
        """
        slow = self._tables.slow
        if slow is None or not slow.payloads.writable:
            return 0
        row = self._tables.resting.oldest(
            lambda row: (space is None or row.space is space) and slow.payloads.may_go(row.key)
        )
        if row is None:
            return 0
        self._forgetting.forget_row(row.key, evicted=True)
        self._count()
        return max(1, row.size)

    def evict_unknown(self) -> int:
        """Evict one unknown entry; its bytes, 0 without one."""
        slow = self._tables.slow
        while slow is not None and slow.payloads.writable and self._tables.unknown:
            key = self._tables.unknown.pop()
            if self._unknown.has(key) and slow.payloads.may_go(key):
                size = slow.payloads.size(key)
                del slow.payloads[key]
                slow.evicted += 1
                self._count()
                return max(1, size)
        return 0

    def _count(self) -> None:
        tier = self._tables.below.payloads
        self._pressure.count(tier.name, f"{tier.capacity:,}")

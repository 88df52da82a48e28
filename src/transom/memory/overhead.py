"""The overhead of a store: bytes of its tables, charged to the same budget as payloads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sized

from transom.errors import InputError
from transom.memory.byte_budget import ByteBudget
from transom.memory.entry import ENTRY_BYTES, Entry
from transom.memory.entry_tables import EntryTables

__all__ = ["Overhead"]

FLOAT = sys.getsizeof(0.0)
AHEAD = 32  # for every so many entries held, one more is charged ahead
MOST_AHEAD = 1024
EXPIRING = 64 + 2 * 32  # a triple of two numbers and an entry
ROW, ROW_AT_MOST = 56, 80  # bytes of an entry at rest
UNKNOWN = 12  # bytes of an unknown entry
WORK = 1 << 14  # bytes to know and use a few entries
START = 4096  # bytes of one entry while there are few: they come with new tables


class Overhead:
    """Bytes of keys, tables, entries and eviction orders, charged to a budget.

    They are measured (`sys.getsizeof`) now and then. In between, entries are charged ahead, at the
    bytes they took so far and a quarter more. A dictionary that is full is copied into a larger
    one. So what the tables may grow by is charged too, and the largest table once more.

    Args:
        budget: what to charge.
        tables: what to measure.
        make_room: evicts one entry from memory; False when none may leave.

    Attributes:
        entries: how many entries are in use.
        names: bytes of their ids and costs.
        bytes: what was measured last.
        charged: what the budget was charged.
    """

    def __init__(
        self, budget: ByteBudget, tables: EntryTables, make_room: Callable[[], bool]
    ) -> None:
        self._budget = budget
        self._tables = tables
        self._make_room = make_room
        self.names = 0
        self.entries = 0
        self.charged = 0
        self._ahead = 0
        self.bytes = 0

    def measure(self) -> int:
        """Bytes taken now."""
        tables = self._tables
        spaces = sum(space.nbytes for space in tables.spaces.values())
        tiers = sum(
            tier.eviction.nbytes + tier.payloads.nbytes + sys.getsizeof(tier.held)
            for tier in tables.tiers
        )
        queue = sys.getsizeof(tables.expiring) + EXPIRING * len(tables.expiring)
        rows = tables.resting.nbytes + tables.unknown.nbytes
        self.bytes = spaces + tiers + queue + rows + self.names + ENTRY_BYTES * self.entries
        return self.bytes

    def open(self) -> None:
        """Charge the tables of an empty store.

        Raises:
            InputError: when even they do not fit.
        """
        slow = self._tables.slow
        below = 0 if slow is None else len(slow.payloads)
        room = UNKNOWN * below + WORK if below else 0
        if not self._charge(room):
            expected = self.measure() + self._growth(1) + START + room
            raise InputError(
                f"{self._budget.capacity:,} bytes of memory cannot hold the tables of a manager"
                f"{', with what is on disk already' if below else ''}; expected at least "
                f"{expected + expected // 8:,}."
            )

    def space_added(self) -> None:
        """A namespace was added; measure again before the next entry."""
        self._ahead = 0

    def enter(self, entry: Entry) -> bool:
        """Charge one more entry; False when there is no room for it."""
        if self._ahead <= 0 and not self._charge():
            return False
        self._ahead -= 1
        self.entries += 1
        self.names += _size(entry)
        return True

    def reserve(self, rows: int) -> None:
        """Make room for `rows` more entries at rest at once, if they can be charged."""
        room = self._most_at_rest(opening=True) - self._at_rest()
        if rows * ROW_AT_MOST <= room and self._charge(rows * ROW_AT_MOST):
            self._tables.resting.reserve(rows)

    def grow(self) -> bool:
        """Charge the rows of more entries at rest; False when they would take too much."""
        more = self._tables.resting.growth
        return self._at_rest() + more <= self._most_at_rest() and self._charge(more)

    def rows_that_fit(self) -> int:
        """How many of the entries that are on the slow tier already may be at rest."""
        room = self._most_at_rest(opening=True) - self._at_rest()
        return max(MOST_AHEAD // AHEAD, room // ROW)

    def forget(self, entry: Entry) -> None:
        """Charge an entry no longer."""
        self.entries -= 1
        self.names -= _size(entry)

    def rename(self, entry: Entry, name: str | None) -> None:
        """Give an entry another name."""
        self.names -= _size(entry)
        entry.name = name
        self.names += _size(entry)

    def recounted(self, entries: list[Entry]) -> int:
        """A recount of `names`."""
        return sum(map(_size, entries))

    def may_be_below(self) -> bool:
        """Whether the slow tier may hold one more entry before it has to evict one.

        The tables of where its payloads are may grow within their part of the memory.
        """
        return not self._tables.below.payloads.full or self._growth_below() > 0

    def _growth_below(self) -> int:
        """Bytes by which the tables of the slow tier may grow; 0 if they may not."""
        slow = self._tables.slow
        growth = 0 if slow is None else slow.payloads.growth
        return growth if self._at_rest() + growth <= self._budget.capacity // 2 else 0

    def _most_at_rest(self, *, opening: bool = False) -> int:
        """The most that `_at_rest` may come to, so that memory is left to work with.

        That is half of the budget. It is more where the tables of the slow tier are large: then a
        quarter of what these tables and the unknown keys leave is for the rows.
        """
        capacity, slow = self._budget.capacity, self._tables.slow
        if slow is None:
            return capacity // 2
        below = slow.payloads.nbytes
        unknown = UNKNOWN * len(slow.payloads) if opening else self._tables.unknown.nbytes
        return max(capacity // 2, below + (capacity - below - unknown) // 4)

    def _at_rest(self) -> int:
        """Bytes of the rows of entries at rest, and of the tables of the slow tier."""
        slow = self._tables.slow
        return self._tables.resting.nbytes + (0 if slow is None else slow.payloads.nbytes)

    def _growth(self, more: int) -> int:
        """Bytes that tables may take in addition when `more` entries come."""
        tables = self._tables
        dictionaries: list[Sized] = [tier.held for tier in tables.tiers]
        for space in tables.spaces.values():
            dictionaries += [space.names, space.blocks]
        sizes = [sys.getsizeof(one) for one in dictionaries]
        growths = [
            max(0, dictionary_size(len(one) + more) - size)
            for one, size in zip(dictionaries, sizes, strict=True)
        ]
        # Eviction orders and the tier in memory have as many entries, and grow when these tables
        # do. About half of their bytes are tables, which grow to twice their size, at most four
        # times.
        others = sum(tier.eviction.nbytes for tier in tables.tiers)
        others += tables.fast.payloads.nbytes
        tiers = len(tables.tiers)
        part = min(1.0, sum(growths[:tiers]) / sum(sizes[:tiers]))
        below = self._growth_below()
        return int(sum(growths) + part * others + others // 8 + max(sizes) + below)

    def _charge(self, more: int = 0) -> bool:
        """Charge the bytes taken, those that may be taken soon, and `more`; False without room."""
        tables, budget = self._tables, self._budget
        ahead = max(1, min(MOST_AHEAD, self.entries // AHEAD))
        while True:
            taken = self.measure()
            of_entries = taken - self._at_rest()
            each = START if self.entries < AHEAD else 5 * of_entries // (4 * self.entries)
            wanted = taken + more + self._growth(ahead) + ahead * each - self.charged
            if wanted <= 0:
                budget.free(-wanted)
            elif not budget.charge(wanted):
                if tables.fast.payloads.shrink(wanted - budget.room):
                    continue
                if not self._make_room():
                    return False
                continue
            self.charged += wanted
            self._ahead = ahead
            return True


def dictionary_size(keys: int) -> int:
    """The most bytes that a dictionary with so many keys takes, whatever it held before.

    A full dictionary is copied into one for three times as many keys.

    >>> table = dict.fromkeys(range(1000))
    >>> for number in range(5000):
    ...     del table[number]
    ...     table[number + 1000] = None
    >>> sys.getsizeof(table) <= dictionary_size(1000)
    True
    """
    places = 1 << max(3, (3 * keys - 1).bit_length())
    index = 1 if places < 1 << 8 else 2 if places < 1 << 16 else 4
    return 128 + places * index + (2 * places // 3) * 24


def _size(entry: Entry) -> int:
    name = 0 if entry.name is None or entry.is_state else sys.getsizeof(entry.name)
    return name + FLOAT * bool(entry.cost)

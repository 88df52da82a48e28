"""What it takes to know what is held, charged like what is held."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transom.errors import InputError
from transom.memory.byte_budget import ByteBudget
from transom.memory.entry import ENTRY_BYTES, Entry

if TYPE_CHECKING:
    from transom.memory.entry_store import EntryStore

__all__ = ["Overhead"]

FLOAT = sys.getsizeof(0.0)
AHEAD = 32  # a part of the entries held: so many more are paid for at a time
MOST_AHEAD = 1024
EXPIRING = 64 + 2 * 32  # a triple of two numbers and an entry
ROW, ROW_AT_MOST = 56, 80  # bytes of an entry at rest
UNKNOWN = 12  # bytes of an entry that there is no room to know
WORK = 1 << 14  # bytes to know and use a few entries
START = 4096  # bytes an entry may take while there are few: tables come with it


class Overhead:
    """Bytes of keys, tables, entries and eviction orders, in a ledger.

    They are measured (`sys.getsizeof`) now and then. In between, entries are paid for ahead, at
    what they took so far and a quarter; and because a dictionary that is full is copied into a
    larger one, what they may grow by is kept free, and the largest once more.

    Attributes:
        entries: how many there are.
        names: bytes of their ids and costs.
        bytes: what was taken when it was measured last.
        charged: what the ledger was charged.
    """

    def __init__(self, budget: ByteBudget, store: EntryStore) -> None:
        self._budget = budget
        self._store = store
        self.names = 0
        self.entries = 0
        self.charged = 0
        self._ahead = 0
        self.bytes = 0

    def measure(self) -> int:
        """Bytes taken now."""
        store = self._store
        spaces = sum(space.nbytes for space in store.spaces.values())
        levels = sum(
            level.eviction.nbytes + level.tier.nbytes + sys.getsizeof(level.held)
            for level in store.levels
        )
        queue = sys.getsizeof(store.expiring) + EXPIRING * len(store.expiring)
        rows = store.resting.nbytes + store.rest.unknown.nbytes
        self.bytes = spaces + levels + queue + rows + self.names + ENTRY_BYTES * self.entries
        return self.bytes

    def open(self) -> None:
        """Pay for the tables that there are, so that all that follows is on top of that.

        Raises:
            InputError: when even they do not fit.
        """
        slow = self._store.slow
        below = 0 if slow is None else len(slow.tier)
        room = UNKNOWN * below + WORK if below else 0
        if not self._pay(room):
            expected = self.measure() + self._growth(1) + START + room
            raise InputError(
                f"{self._budget.capacity:,} bytes of memory cannot hold the tables of a manager"
                f"{', with what is on disk already' if below else ''}; expected at least "
                f"{expected + expected // 8:,}."
            )

    def space_added(self) -> None:
        """There is one more namespace, to be measured before anything is entered."""
        self._ahead = 0

    def enter(self, entry: Entry) -> bool:
        """Pay for one more entry; False when there is no room even for that."""
        if self._ahead <= 0 and not self._pay():
            return False
        self._ahead -= 1
        self.entries += 1
        self.names += _size(entry)
        return True

    def reserve(self, rows: int) -> None:
        """Have room for so many entries at rest at once, as far as that can be paid for."""
        resting = self._store.resting
        room = self._most_at_rest(opening=True) - self._at_rest()
        if rows * ROW_AT_MOST <= room and self._pay(rows * ROW_AT_MOST):
            resting.reserve(rows)

    def grow(self) -> bool:
        """Pay for the rows of more entries at rest; False when they would take too much."""
        more = self._store.resting.growth
        return self._at_rest() + more <= self._most_at_rest() and self._pay(more)

    def rows_that_fit(self) -> int:
        """How many entries may rest, that are known already where they are."""
        room = self._most_at_rest(opening=True) - self._at_rest()
        return max(MOST_AHEAD // AHEAD, room // ROW)

    def leave(self, entry: Entry) -> None:
        """An entry is no longer held, or not after all."""
        self.entries -= 1
        self.names -= _size(entry)

    def rename(self, entry: Entry, name: str | None) -> None:
        """Give an entry another name."""
        self.names -= _size(entry)
        entry.name = name
        self.names += _size(entry)

    def recounted(self, entries: list[Entry]) -> int:
        """What `names` should be."""
        return sum(map(_size, entries))

    def may_be_below(self) -> bool:
        """Whether one more may be on the second shelf, before something leaves it.

        What it takes to know where all is grows as long as it has its part of the memory.
        """
        slow = self._store.slow
        assert slow is not None
        return not slow.tier.full or self._growth_below() > 0

    def _growth_below(self) -> int:
        """Bytes that it may take more to know where all is below memory; 0 if it is not to grow."""
        slow = self._store.slow
        growth = 0 if slow is None else slow.tier.growth
        return growth if self._at_rest() + growth <= self._budget.capacity // 2 else 0

    def _most_at_rest(self, *, opening: bool = False) -> int:
        """Bytes that `_at_rest` may come to: there is always memory left to work with.

        That is half of all, or more where what is on disk takes much to know where it is: then a
        quarter of what this and the keys that are not known leave is for the entries themselves.
        """
        capacity, slow = self._budget.capacity, self._store.slow
        if slow is None:
            return capacity // 2
        below = slow.tier.nbytes
        unknown = UNKNOWN * len(slow.tier) if opening else self._store.rest.unknown.nbytes
        return max(capacity // 2, below + (capacity - below - unknown) // 4)

    def _at_rest(self) -> int:
        """Bytes that it takes to know what rests, and where all is below memory."""
        slow = self._store.slow
        return self._store.resting.nbytes + (0 if slow is None else slow.tier.nbytes)

    def _growth(self, more: int) -> int:
        """Bytes that tables may take beyond what they do, when `more` entries come."""
        store = self._store
        tables: list[Mapping[Any, Any]] = [level.held for level in store.levels]
        for space in store.spaces.values():
            tables += [space.names, space.blocks]
        sizes = [sys.getsizeof(table) for table in tables]
        growths = [
            max(0, dictionary_size(len(table) + more) - size)
            for table, size in zip(tables, sizes, strict=True)
        ]
        # Other tables have as many entries, and grow when these do; half of what they are part of
        # are no tables, and these grow to four times their size at most, mostly to twice.
        others = sum(level.eviction.nbytes for level in store.levels)
        others += store.fast.tier.nbytes
        levels = len(store.levels)
        part = min(1.0, sum(growths[:levels]) / sum(sizes[:levels]))
        below = self._growth_below()
        return int(sum(growths) + part * others + others // 8 + max(sizes) + below)

    def _pay(self, more: int = 0) -> bool:
        """Charge what is taken and may be soon, and `more` bytes; False when that cannot be."""
        store, budget = self._store, self._budget
        ahead = max(1, min(MOST_AHEAD, self.entries // AHEAD))
        while True:
            taken = self.measure()
            of_entries = taken - self._at_rest()
            each = START if self.entries < AHEAD else 5 * of_entries // (4 * self.entries)
            wanted = taken + more + self._growth(ahead) + ahead * each - self.charged
            if wanted <= 0:
                budget.free(-wanted)
            elif not budget.charge(wanted):
                if store.fast.tier.shrink(wanted - budget.room):
                    continue
                if not store.evict_one():
                    return False
                continue
            self.charged += wanted
            self._ahead = ahead
            return True


def dictionary_size(keys: int) -> int:
    """The most bytes that a dictionary takes which holds so many keys, whatever it held before.

    When it is full it is made anew, for three times as many keys as it holds.

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

"""Entries at rest: each is one row of numbers, and the rest is read from the slow tier."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from transom.memory.entry import Namespace
from transom.memory.entry_header import NAMELESS, STATE, EntryHeader
from transom.memory.record_table import NOT_THERE, RecordTable
from transom.memory.row import RestingSums, Row, hash_of
from transom.memory.tiers.base import Tier
from transom.memory.tree import key_hash
from transom.memory.use_order import UseOrder

__all__ = ["Resting"]


class Resting:
    """Entries at rest, in the order in which they leave the slow tier: that of their last use.

    An entry that others at rest continue is not in that order, as it may not leave before them.
    """

    def __init__(self, tier: Tier) -> None:
        self._tier = tier
        self._rows = RecordTable(
            above="Q",
            name="I",
            size="Q",
            start="I",
            kids="I",
            space="I",
            flags="B",
            older="I",
            newer="I",
        )
        self._names = self._rows.index("name")
        self._order = UseOrder(self._rows)
        self._spaces: list[Namespace] = []
        self._free_numbers: list[int] = []
        self._expires: array[float] | None = None  # by row, from the first that expires on
        self._soonest = math.inf

    # Rows

    def reserve(self, count: int) -> None:
        """Make room for so many rows at once."""
        self._rows.reserve(count)

    def add(self, row: Row, name: str) -> None:
        """Add a row as the one used last; `name` is the id of its context."""
        at = self._rows.add(row.key)
        columns = self._rows.columns
        columns["above"][at] = row.above
        columns["size"][at] = row.size
        columns["start"][at] = row.start
        columns["kids"][at] = row.kids
        columns["space"][at] = self._number(row.space)
        columns["flags"][at] = row.flags
        if row.named:
            columns["name"][at] = hash_of(row.space.name, name)
            self._names.add(at)
            row.space.resting += 1
        if row.expires != math.inf or self._expires is not None:
            self._set_expires(at, row.expires)
        if not row.kids:
            self._order.add(at)

    def forget(self, key: int) -> Row:
        """Take out the row of `key`, and return it."""
        at = self._rows.find(key)
        row = self._row(at)
        if not row.kids:
            self._order.forget(at)
        if row.named:
            self._names.remove(at)
            row.space.resting -= 1
        self._rows.remove(at)
        self._compact()
        return row

    def get(self, key: int) -> Row | None:
        """The row of `key`; None when it is not at rest."""
        at = self._rows.find(key)
        return None if at == NOT_THERE else self._row(at)

    def forget_name(self, key: int) -> None:
        """`key` no longer ends a context."""
        at = self._rows.find(key)
        self._names.remove(at)
        self._rows.columns["flags"][at] |= NAMELESS
        self._spaces[self._rows.columns["space"][at]].resting -= 1

    def add_kids(self, key: int, more: int) -> int:
        """Add `more`, which may be negative, to the kids of `key`; how many there are now."""
        at = self._rows.find(key)
        kids = self._rows.columns["kids"]
        if not kids[at]:
            self._order.forget(at)
        kids[at] += more
        if not kids[at]:
            self._order.add(at)
        return kids[at]

    def flag(self, key: int, flags: int, *, on: bool) -> None:
        """Set or clear flags of `key`."""
        column, at = self._rows.columns["flags"], self._rows.find(key)
        column[at] = column[at] | flags if on else column[at] & ~flags

    def forget_space(self, space: Namespace) -> None:
        """Forget a namespace that has no entries."""
        if space.number >= 0:
            self._free_numbers.append(space.number)
            space.number = -1

    def __contains__(self, key: object) -> bool:
        return isinstance(key, int) and self._rows.find(key) != NOT_THERE

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return map(self._row, self._rows)

    # Looking rows up

    def named(self, space: Namespace, name: str) -> tuple[Row, EntryHeader] | None:
        """The row that a context ends with, and its header on the tier; None when not at rest."""
        for at in self._names.rows(hash_of(space.name, name)):
            row = self._row(at)
            if row.space is space:
                header = self.header(row.key)
                if header is not None and header.name == name:
                    return row, header
        return None

    def header(self, key: int) -> EntryHeader | None:
        """The header of `key` on the tier; None when it cannot be read."""
        try:
            return EntryHeader.unpack(self._tier.header(key))
        except KeyError:
            return None

    def kids(self, key: int) -> list[Row]:
        """The rows that continue `key`, and its state. Takes O(rows)."""
        above = np.array(self._rows.columns["above"], dtype=np.uint64)
        return [self._row(int(at)) for at in np.flatnonzero(above == np.uint64(key))]

    def state(self, key: int, space: Namespace, name: str) -> Row | None:
        """The state of the context that ends with `key`."""
        found = self.get(key_hash(space.name, name, "state"))
        if found is not None and found.above == key and found.flags & STATE:
            return found
        return next((row for row in self.kids(key) if row.flags & STATE), None)

    def oldest(self, may_go: Callable[[Row], bool]) -> Row | None:
        """The row unused for longest, of those without kids that `may_go` accepts."""
        return next((row for row in map(self._row, self._order) if may_go(row)), None)

    def expired(self, now: float) -> list[Row]:
        """The rows whose time is over. Takes O(rows) when there may be any."""
        if self._expires is None or now < self._soonest:
            return []
        expires = np.array(self._expires)
        keys = np.array(self._rows.keys[: len(expires)], dtype=np.uint64)
        expires[keys == 0] = math.inf
        found = [self._row(int(at)) for at in np.flatnonzero(expires <= now)]
        later = expires[expires > now]
        self._soonest = float(later.min()) if len(later) else math.inf
        return found

    def unneeded(self) -> list[int]:
        """Keys of the rows without a name that nothing continues."""
        flags = np.array(self._rows.columns["flags"])
        kids = np.array(self._rows.columns["kids"])
        keys = np.array(self._rows.keys, dtype=np.uint64)
        found = (keys > 0) & (kids == 0) & (flags & NAMELESS > 0) & (flags & STATE == 0)
        return [int(key) for key in keys[found]]

    # The whole

    @property
    def soonest(self) -> float:
        """When the next row may expire."""
        return self._soonest

    def sums(self, itemsize: int) -> RestingSums:
        """Sums over all rows; `itemsize` is bytes per token."""
        flags, sizes = np.array(self._rows.columns["flags"]), self._sizes()
        start = np.array(self._rows.columns["start"], dtype=np.int64)
        there = np.array(self._rows.keys, dtype=np.uint64) > 0
        tokens, named = flags & STATE == 0, flags & (STATE | NAMELESS) == 0
        lengths = start + sizes // itemsize
        return RestingSums(
            int(lengths[there & named].sum()),
            int((there & ~tokens).sum()),
            int(sizes[there & tokens].sum()),
        )

    def bytes_of(self, space: Namespace) -> int:
        """Bytes of the payloads of a namespace."""
        if space.number < 0:
            return 0
        there = np.array(self._rows.keys, dtype=np.uint64) > 0
        of_space = np.array(self._rows.columns["space"]) == space.number
        return int(self._sizes()[there & of_space].sum())

    @property
    def full(self) -> bool:
        """Whether the tables must grow for one more row."""
        return self._rows.full

    @property
    def growth(self) -> int:
        """Bytes that the tables take in addition when they grow."""
        return self._rows.growth + (0 if self._expires is None else len(self._rows.keys))

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the tables take."""
        expires = 0 if self._expires is None else sys.getsizeof(self._expires)
        return self._rows.nbytes + expires + sys.getsizeof(self._spaces)

    # Within

    def _compact(self) -> None:
        """Give back the room of rows that left, if it is more than half."""
        moved = self._rows.compact()
        if moved is None:
            return
        self._order.renumber(moved)
        if self._expires is not None:
            kept = np.array(self._expires)[np.flatnonzero(moved[1 : len(self._expires) + 1])]
            self._expires = array("d", kept.tobytes())

    def _row(self, at: int) -> Row:
        columns = self._rows.columns
        return Row(
            self._rows.keys[at],
            self._spaces[columns["space"][at]],
            columns["above"][at],
            columns["size"][at],
            columns["start"][at],
            columns["kids"][at],
            columns["flags"][at],
            math.inf if self._expires is None else self._expires[at],
        )

    def _sizes(self) -> NDArray[np.int64]:
        return np.array(self._rows.columns["size"], dtype=np.int64)

    def _number(self, space: Namespace) -> int:
        if space.number < 0:
            space.number = self._free_numbers.pop() if self._free_numbers else len(self._spaces)
            self._spaces[space.number : space.number + 1] = [space]
        return space.number

    def _set_expires(self, at: int, expires: float) -> None:
        if self._expires is None:
            self._expires = array("d")
        missing = max(at + 1, len(self._rows.keys)) - len(self._expires)
        if missing > 0:
            self._expires.extend([math.inf] * missing)
        self._expires[at] = expires
        self._soonest = min(self._soonest, expires)

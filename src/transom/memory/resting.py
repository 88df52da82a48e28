"""Entries that only the second shelf has: a row of numbers each, and the rest is read there."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from transom.memory.entry import Namespace
from transom.memory.entry_header import NAMELESS, STATE, EntryHeader
from transom.memory.record_table import NOT_THERE, RecordTable
from transom.memory.tiers.base import Tier
from transom.memory.tree import key_hash

__all__ = ["HAS_STATE", "Resting", "Row", "Sums", "hash_of"]

HAS_STATE = 8  # a flag beside those of labels
HASH = (1 << 32) - 1


class Row(NamedTuple):
    """What is known of an entry at rest without reading it.

    Attributes:
        key: under which the tier has it.
        space: its namespace.
        above: key of what it continues, or whose state it is; 0 for none.
        size: bytes of its payload.
        start: tokens of all its ancestors that it continues.
        kids: entries at rest that continue it, and its state.
        flags: STATE, NAMELESS, LISTED, HAS_STATE.
        expires: when, on the monotonic clock.
    """

    key: int
    space: Namespace
    above: int
    size: int
    start: int
    kids: int
    flags: int
    expires: float

    @property
    def named(self) -> bool:
        """Whether it is the end of a context."""
        return not self.flags & (STATE | NAMELESS)


class Sums(NamedTuple):
    """Entries at rest, together.

    Attributes:
        tokens: sum of the lengths of contexts.
        states: how many are states.
        token_bytes: bytes of those that are none.
    """

    tokens: int
    states: int
    token_bytes: int


class Resting:
    """Entries at rest, in the order in which they leave the disk: that of their last use.

    What others at rest continue is in no order: it may not leave before they do.
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
        self._spaces: list[Namespace] = []
        self._free_numbers: list[int] = []
        self._expires: array[float] | None = None  # by row, from the first that expires on
        self._soonest = math.inf
        self._oldest = self._newest = 0  # row + 1

    # Rows

    def reserve(self, count: int) -> None:
        """Have room for so many at once."""
        self._rows.reserve(count)

    def add(self, row: Row, name: str) -> None:
        """There is one more, used last; `name` is the id of its context."""
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
            self._link(at)

    def remove(self, key: int) -> Row:
        """There is one fewer."""
        at = self._rows.find(key)
        row = self._row(at)
        if not row.kids:
            self._unlink(at)
        if row.named:
            self._names.discard(at)
            row.space.resting -= 1
        self._rows.remove(at)
        return row

    def get(self, key: int) -> Row | None:
        """What is known of `key`; None when it is not here."""
        at = self._rows.find(key)
        return None if at == NOT_THERE else self._row(at)

    def unname(self, key: int) -> None:
        """`key` is the end of no context any longer."""
        at = self._rows.find(key)
        self._names.discard(at)
        self._rows.columns["flags"][at] |= NAMELESS
        self._spaces[self._rows.columns["space"][at]].resting -= 1

    def add_kids(self, key: int, more: int) -> int:
        """`key` is continued by so many more, or fewer; by how many it is now."""
        at = self._rows.find(key)
        kids = self._rows.columns["kids"]
        if not kids[at]:
            self._unlink(at)
        kids[at] += more
        if not kids[at]:
            self._link(at)
        return kids[at]

    def flag(self, key: int, flags: int, *, on: bool) -> None:
        """Set or clear flags of `key`."""
        column, at = self._rows.columns["flags"], self._rows.find(key)
        column[at] = column[at] | flags if on else column[at] & ~flags

    def release(self, space: Namespace) -> None:
        """A namespace that has nothing is forgotten."""
        if space.number >= 0:
            self._free_numbers.append(space.number)
            space.number = -1

    def __contains__(self, key: object) -> bool:
        return isinstance(key, int) and self._rows.find(key) != NOT_THERE

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return map(self._row, self._rows)

    # Looking for some

    def named(self, space: Namespace, name: str) -> tuple[Row, EntryHeader] | None:
        """The end of a context, by its id, and what the tier has beside it."""
        for at in self._names.rows(hash_of(space.name, name)):
            row = self._row(at)
            if row.space is space:
                header = self.header(row.key)
                if header is not None and header.name == name:
                    return row, header
        return None

    def header(self, key: int) -> EntryHeader | None:
        """What the tier has beside the payload; None when that cannot be read any more."""
        try:
            return EntryHeader.unpack(self._tier.header(key))
        except KeyError:
            return None

    def kids(self, key: int) -> list[Row]:
        """Those that continue `key`, and its state. Goes through all there are."""
        above = np.array(self._rows.columns["above"], dtype=np.uint64)
        return [self._row(int(at)) for at in np.flatnonzero(above == np.uint64(key))]

    def state(self, key: int, space: Namespace, name: str) -> Row | None:
        """The state of the context that ends with `key`."""
        found = self.get(key_hash(space.name, name, "state"))
        if found is not None and found.above == key and found.flags & STATE:
            return found
        return next((row for row in self.kids(key) if row.flags & STATE), None)

    def oldest(self, may_go: Callable[[Row], bool]) -> Row | None:
        """What was not used for longest, of what no other at rest continues, and may go."""
        at = self._oldest
        while at:
            row = self._row(at - 1)
            if may_go(row):
                return row
            at = self._rows.columns["newer"][at - 1]
        return None

    def expired(self, now: float) -> list[Row]:
        """Those that are held no longer. Goes through all there are when there may be some."""
        if self._expires is None or now < self._soonest:
            return []
        expires = np.array(self._expires)
        keys = np.array(self._rows.keys[: len(expires)], dtype=np.uint64)
        expires[keys == 0] = math.inf
        found = [self._row(int(at)) for at in np.flatnonzero(expires <= now)]
        later = expires[expires > now]
        self._soonest = float(later.min()) if len(later) else math.inf
        return found

    def useless(self) -> list[int]:
        """Keys of those without a name that nothing continues."""
        flags = np.array(self._rows.columns["flags"])
        kids = np.array(self._rows.columns["kids"])
        keys = np.array(self._rows.keys, dtype=np.uint64)
        found = (keys > 0) & (kids == 0) & (flags & NAMELESS > 0) & (flags & STATE == 0)
        return [int(key) for key in keys[found]]

    # The whole

    @property
    def soonest(self) -> float:
        """When the next one may expire."""
        return self._soonest

    def sums(self, itemsize: int) -> Sums:
        """All of them together."""
        flags, sizes = np.array(self._rows.columns["flags"]), self._sizes()
        start = np.array(self._rows.columns["start"], dtype=np.int64)
        there = np.array(self._rows.keys, dtype=np.uint64) > 0
        tokens, named = flags & STATE == 0, flags & (STATE | NAMELESS) == 0
        lengths = start + sizes // itemsize
        return Sums(
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
        """Whether one more makes the tables grow."""
        return self._rows.full

    @property
    def growth(self) -> int:
        """Bytes that the tables take beyond what they do when they grow."""
        return self._rows.growth + (0 if self._expires is None else len(self._rows.keys))

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the tables take."""
        expires = 0 if self._expires is None else sys.getsizeof(self._expires)
        return self._rows.nbytes + expires + sys.getsizeof(self._spaces)

    # Within

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

    def _sizes(self) -> Any:
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

    def _link(self, at: int) -> None:
        """Be the one that was used last."""
        columns = self._rows.columns
        columns["older"][at], columns["newer"][at] = self._newest, 0
        if self._newest:
            columns["newer"][self._newest - 1] = at + 1
        else:
            self._oldest = at + 1
        self._newest = at + 1

    def _unlink(self, at: int) -> None:
        columns = self._rows.columns
        older, newer = columns["older"][at], columns["newer"][at]
        if older:
            columns["newer"][older - 1] = newer
        else:
            self._oldest = newer
        if newer:
            columns["older"][newer - 1] = older
        else:
            self._newest = older


def hash_of(space: str, name: str) -> int:
    """A number of 32 bits by which the ids of contexts are found."""
    return key_hash(space, name) & HASH

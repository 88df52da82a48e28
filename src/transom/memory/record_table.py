"""Many small records in columns of numbers, which take tens of bytes each, not hundreds."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["NOT_THERE", "HashIndex", "RecordTable"]

NOT_THERE = -1
SPREAD = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio: keys may be 1, 2, 3
WORD = (1 << 64) - 1
FIRST = 64  # rows and places at the start
GROWTH = 8  # one in so many rows is added when the table grows


class HashIndex:
    """A hash index of a column, with linear probing. Takes 6 to 12 bytes per row.

    Args:
        values: the column; a row has its value in it when it is added and removed.
    """

    def __init__(self, values: array[int]) -> None:
        self._values = values
        self._places = array("I", bytes(4 * FIRST))  # row + 1; 0 where there is none

    def rows(self, value: int) -> Iterator[int]:
        """Every row that has `value`."""
        places, values, mask = self._places, self._values, len(self._places) - 1
        at = ((value * SPREAD) & WORD) >> 32 & mask
        while row := places[at]:
            if values[row - 1] == value:
                yield row - 1
            at = at + 1 & mask

    def first(self, value: int) -> int:
        """A row that has `value`; NOT_THERE without one."""
        places, values, mask = self._places, self._values, len(self._places) - 1
        at = ((value * SPREAD) & WORD) >> 32 & mask
        while row := places[at]:
            if values[row - 1] == value:
                return row - 1
            at = at + 1 & mask
        return NOT_THERE

    def add(self, row: int) -> None:
        """Add a row, for which room was reserved."""
        places, mask = self._places, len(self._places) - 1
        at = ((self._values[row] * SPREAD) & WORD) >> 32 & mask
        while places[at]:
            at = at + 1 & mask
        places[at] = row + 1

    def remove(self, row: int) -> None:
        """Take out a row, which still has its value."""
        places, values, mask = self._places, self._values, len(self._places) - 1
        hole = ((values[row] * SPREAD) & WORD) >> 32 & mask
        while places[hole] != row + 1:
            hole = hole + 1 & mask
        # Rows that were put behind it because its place was taken move up.
        at = hole + 1 & mask
        while other := places[at]:
            home = ((values[other - 1] * SPREAD) & WORD) >> 32 & mask
            if (at - home & mask) >= (at - hole & mask):
                places[hole] = other
                hole = at
            at = at + 1 & mask
        places[hole] = 0

    def reserve(self, rows: int) -> None:
        """Make room for so many rows, which take at most two thirds of the places."""
        size = self._size(rows)
        if size == len(self._places):
            return
        old = np.frombuffer(self._places, dtype=np.uint32)
        self._places = self._placed(old[old > 0], size)

    def renumber(self, moved: NDArray[np.uint32], rows: int) -> None:
        """Hold the same rows under other numbers, with room for `rows` of them.

        Args:
            moved: by number of a row + 1, its new number + 1.
        """
        old = np.frombuffer(self._places, dtype=np.uint32)
        self._places = self._placed(moved[old[old > 0]], self._size(rows, FIRST))

    def _placed(self, waiting: NDArray[np.uint32], size: int) -> array[int]:
        values = np.frombuffer(self._values, dtype=f"u{self._values.itemsize}")
        values = values[waiting - 1].astype(np.uint64)
        at = (values * np.uint64(SPREAD) >> np.uint64(32) & np.uint64(size - 1)).astype(np.int64)
        places = np.zeros(size, dtype=np.uint32)
        while len(waiting):
            free = np.flatnonzero(places[at] == 0)
            taken, first = np.unique(at[free], return_index=True)
            places[taken] = waiting[free[first]]
            left = np.ones(len(waiting), dtype=bool)
            left[free[first]] = False
            waiting, at = waiting[left], at[left] + 1 & size - 1
        return array("I", places.tobytes())

    def growth(self, rows: int) -> int:
        """Bytes that it takes in addition while it is made again for so many rows."""
        size = self._size(rows)
        return 0 if size == len(self._places) else 4 * (size + len(self._places))

    @property
    def nbytes(self) -> int:
        """Bytes of memory taken."""
        return sys.getsizeof(self._places)

    def _size(self, rows: int, size: int = 0) -> int:
        size = size or len(self._places)
        while 3 * rows > 2 * size:
            size *= 2
        return size


class RecordTable:
    """Records under keys of 64 bits, in columns.

    Attributes:
        keys: the keys by row; 0 where there is none.
        columns: further numbers by name and row; 0 in a new one.

    >>> rows = RecordTable(size="I")
    >>> row = rows.add(7)
    >>> rows.columns["size"][row] = 300
    >>> rows.find(7) == row, rows.find(8) == NOT_THERE, len(rows)
    (True, True, 1)
    """

    def __init__(self, **columns: str) -> None:
        self.keys = array("Q")
        self.columns = {name: array(code) for name, code in columns.items()}
        self._index = HashIndex(self.keys)
        self._indexes = [self._index]
        self._free = array("I")
        self._count = 0
        self._used = 0  # rows from the start that have ever been in use

    def index(self, column: str) -> HashIndex:
        """A new, empty index of another column; rows are added to it by hand."""
        found = HashIndex(self.columns[column])
        found.reserve(len(self.keys))
        self._indexes.append(found)
        return found

    def find(self, key: int) -> int:
        """The row of `key`; NOT_THERE without one."""
        return self._index.first(key)

    def add(self, key: int) -> int:
        """A new row for `key`, which has none; all its numbers are 0."""
        if self._free:
            row = self._free.pop()
        else:
            if self._used == len(self.keys):
                self._extend(self._step())
            row = self._used
            self._used += 1
        self.keys[row] = key
        self._index.add(row)
        self._count += 1
        return row

    def remove(self, row: int) -> None:
        """Take out a row."""
        self._index.remove(row)
        self.keys[row] = 0
        for column in self.columns.values():
            column[row] = 0
        self._free.append(row)
        self._count -= 1

    def compact(self) -> NDArray[np.uint32] | None:
        """Give back the room of rows that were removed, if it is more than half.

        Returns:
            The new number of each row + 1, by its former number + 1, with 0 for 0 and for what is
            free; None when nothing was done.
        """
        if 2 * len(self._free) <= len(self.keys) or len(self.keys) <= 2 * FIRST:
            return None
        there = np.flatnonzero(np.array(self.keys, dtype=np.uint64))
        moved = np.zeros(len(self.keys) + 1, dtype=np.uint32)
        moved[there + 1] = np.arange(1, len(there) + 1)
        for column in (self.keys, *self.columns.values()):
            kept = np.array(column)[there]
            column[:] = array(column.typecode, kept.tobytes())
        for index in self._indexes:
            index.renumber(moved, self._count)
        self._free = array("I")
        self._used = self._count
        return moved

    @property
    def full(self) -> bool:
        """Whether it must grow for one more row."""
        return self._count == len(self.keys)

    @property
    def growth(self) -> int:
        """Bytes that it takes in addition when it grows."""
        step = self._step()
        each = sum(column.itemsize for column in (self.keys, *self.columns.values()))
        indexes = sum(index.growth(len(self.keys) + step) for index in self._indexes)
        # Python makes an array that grows somewhat larger than needed.
        return each * (step + (len(self.keys) + step) // 16) + indexes

    @property
    def nbytes(self) -> int:
        """Bytes of memory taken."""
        columns = (self.keys, self._free, *self.columns.values())
        return sum(map(sys.getsizeof, columns)) + sum(index.nbytes for index in self._indexes)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        """The numbers of all rows."""
        return (row for row in range(self._used) if self.keys[row])

    def reserve(self, rows: int) -> None:
        """Make room for so many rows at once, which fragments memory less than growing to it."""
        if rows > len(self.keys):
            self._extend(rows - len(self.keys))

    def _step(self) -> int:
        return max(FIRST, len(self.keys) // GROWTH)

    def _extend(self, step: int) -> None:
        for column in (self.keys, *self.columns.values()):
            column.frombytes(bytes(step * column.itemsize))
        for index in self._indexes:
            index.reserve(len(self.keys))

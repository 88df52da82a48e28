"""Where every payload of a store is, in about fifty bytes each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from transom.memory.extents import ALIGNMENT
from transom.memory.record_table import NOT_THERE, RecordTable
from transom.memory.tiers.disk.record import HEADER, Place

__all__ = ["Places"]


class Places(Mapping[int, Place]):
    """Places by key."""

    def __init__(self) -> None:
        self._rows = RecordTable(
            start="Q", length="I", header="H", size="Q", check="Q", generation="Q", large="B"
        )

    @property
    def nbytes(self) -> int:
        """Bytes of memory taken."""
        return self._rows.nbytes

    @property
    def growth(self) -> int:
        """Bytes of memory that it takes in addition when it grows next."""
        return self._rows.growth

    @property
    def full(self) -> bool:
        """Whether it must grow for one more place."""
        return self._rows.full

    def reserve(self, count: int) -> None:
        """Make room for `count` places at once."""
        self._rows.reserve(count)

    def add(self, key: int, place: Place) -> None:
        """Add the place of `key`, which has none."""
        row, columns = self._rows.add(key), self._rows.columns
        columns["start"][row] = place.start
        columns["length"][row] = place.length // ALIGNMENT
        columns["header"][row] = place.payload - place.start - HEADER
        columns["size"][row] = place.size
        columns["check"][row] = place.check
        columns["generation"][row] = place.generation
        columns["large"][row] = place.large

    def pop(self, key: int) -> Place | None:
        """Take out the place of `key` and return it; None when it had none."""
        row = self._rows.find(key)
        if row == NOT_THERE:
            return None
        place = self._place(row)
        self._rows.remove(row)
        self._rows.compact()
        return place

    def by_generation(self) -> NDArray[np.uint64]:
        """The keys, `(entries,)` uint64, in the order in which they were stored."""
        keys = np.frombuffer(self._rows.keys, dtype=np.uint64)
        order = np.argsort(np.frombuffer(self._rows.columns["generation"], dtype=np.uint64))
        found: NDArray[np.uint64] = keys[order[keys[order] > 0]]
        return found

    def __getitem__(self, key: int) -> Place:
        row = self._rows.find(key)
        if row == NOT_THERE:
            raise KeyError(key)
        return self._place(row)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, int) and self._rows.find(key) != NOT_THERE

    def __iter__(self) -> Iterator[int]:
        return (self._rows.keys[row] for row in self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def _place(self, row: int) -> Place:
        columns = self._rows.columns
        start = columns["start"][row]
        return Place(
            start,
            columns["length"][row] * ALIGNMENT,
            start + HEADER + columns["header"][row],
            columns["size"][row],
            columns["check"][row],
            columns["generation"][row],
            bool(columns["large"][row]),
        )

"""Rows in the order of their last use, as a linked list in two columns."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from transom.memory.record_table import RecordTable

__all__ = ["UseOrder"]


class UseOrder:
    """Rows of a table from the one unused for longest to the one used last.

    Args:
        rows: the table, with columns `older` and `newer`: the neighbours of a row, as row + 1, or
            0 at an end.
    """

    def __init__(self, rows: RecordTable) -> None:
        self._older, self._newer = rows.columns["older"], rows.columns["newer"]
        self._oldest = self._newest = 0  # row + 1

    def add(self, at: int) -> None:
        """Row `at`, which is not in the order, was used last."""
        self._older[at], self._newer[at] = self._newest, 0
        if self._newest:
            self._newer[self._newest - 1] = at + 1
        else:
            self._oldest = at + 1
        self._newest = at + 1

    def forget(self, at: int) -> None:
        """Take row `at` out of the order."""
        older, newer = self._older[at], self._newer[at]
        if older:
            self._newer[older - 1] = newer
        else:
            self._oldest = newer
        if newer:
            self._older[newer - 1] = older
        else:
            self._newest = older

    def renumber(self, moved: NDArray[np.uint32]) -> None:
        """The rows have other numbers now; see `RecordTable.compact`."""
        for column in (self._older, self._newer):
            column[:] = array(column.typecode, moved[np.array(column)].tobytes())
        self._oldest, self._newest = int(moved[self._oldest]), int(moved[self._newest])

    def __iter__(self) -> Iterator[int]:
        """The rows, the one unused for longest first."""
        at = self._oldest
        while at:
            yield at - 1
            at = self._newer[at - 1]

"""The capacity of a store: bytes that all its processes have taken, and room for more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transom.memory.tiers.disk.block_file import on_disk
from transom.memory.tiers.disk.catalogue import Catalogue
from transom.memory.tiers.disk.data_file import DataFile
from transom.memory.tiers.disk.index import index_file_size
from transom.memory.tiers.disk.shared import INDEX, PEAK, USED, Shared

__all__ = ["FreeSpace"]

STEPS = 64  # parts of the capacity by which the data file grows, within:
SMALLEST_STEP, LARGEST_STEP = 64 << 10, 64 << 20
PAGE = 4096


class FreeSpace:
    """Charges bytes, as the file system counts them, before they are taken.

    Attributes:
        failures: how often the disk had less room than the store may take.
    """

    def __init__(self, capacity: int, shared: Shared, data: DataFile, known: Catalogue) -> None:
        self.failures = 0
        self._capacity = capacity
        self._shared = shared
        self._data = data
        self._known = known
        step = min(LARGEST_STEP, max(SMALLEST_STEP, capacity // STEPS))
        self._step = -(-step // PAGE) * PAGE

    def charge(self, size: int) -> None:
        """Charge `size` bytes, or fewer where it is negative."""
        words = self._shared.words
        words[USED] = max(0, words[USED] + size)
        words[PEAK] = max(words[PEAK], words[USED])

    def holds(self, size: int, items: int) -> bool:
        """Whether there is room for `size` bytes, and for an index that grows by `items` bytes.

        A new index is written before the old one is deleted, so there must be room for both.
        """
        words = self._shared.words
        index, old = index_file_size(self._known.items + items), words[INDEX]
        return words[USED] - old + size + index + max(index, old) <= self._capacity

    def take(self, length: int, items: int) -> int | None:
        """Take `length` bytes of the data file, which may grow; where they start, None without."""
        if not self.holds(0, items):
            return None
        start = self._known.free.take(length)
        if start is None:
            self._known.reached(self._data.measure())
            start = self._known.free.take(length)
        if start is None and self._grow(length, items):
            start = self._known.free.take(length)
        return start

    def _grow(self, length: int, items: int) -> bool:
        size = self._data.size
        missing = -(-(length - self._known.free.size_ending_at(size)) // PAGE) * PAGE
        for growth in (max(missing, self._step), missing):
            if self.holds(growth, items):
                before = self._data.used
                self.charge(growth)
                try:
                    self._data.grow(size + growth)
                    return True
                except OSError:
                    self.failures += 1
                finally:
                    self.charge(self._data.used - before - growth)
                    self._known.reached(self._data.size)
        return False

    @contextmanager
    def for_index(self, path: Path) -> Iterator[bool]:
        """A context to write a new index in; it gives False without room beside the old one."""
        words = self._shared.words
        size = index_file_size(self._known.items)
        if words[USED] + size > self._capacity:
            yield False
            return
        self.charge(size)
        try:
            yield True
        except OSError:
            self.failures += 1
        finally:
            self.charge(on_disk(path) - words[INDEX] - size)
            words[INDEX] = on_disk(path)

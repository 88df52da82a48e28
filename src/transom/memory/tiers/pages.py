"""Pages of one private memory map, charged to a budget before they are touched."""

from __future__ import annotations

import errno
import mmap
import sys

import numpy as np

from transom.errors import InputError
from transom.memory.byte_budget import ByteBudget
from transom.memory.extents import Extents, aligned
from transom.memory.tiers.payload import Payload

__all__ = ["Pages"]

SMALL, HUGE = mmap.PAGESIZE, 2 << 20  # bytes per page
MANY = 128  # huge pages from which on they are used
NORESERVE = 0x4000 if sys.platform == "linux" else 0  # address space, not yet memory
POPULATE_WRITE = 23  # madvise of Linux 5.14: pages now, all at once, or an error
STEPS = 512  # parts of the capacity by which it grows, within:
SMALLEST_STEP, LARGEST_STEP = 64 << 10, 4 << 20


class Pages:
    """Places for payloads in a memory map, so that the bytes counted are those the system shows.

    After many payloads of different sizes have come and gone, `malloc` keeps 7 % more than is in
    use, which no count would see. Here pages are charged, then touched, and stay charged until they
    are given back to the system. What fragmentation wastes is charged with them.

    Attributes:
        budget: what is charged.
        used: bytes of the pages that are charged.
        peak: most bytes of pages that ever were.
        reach: most bytes of pages that there can be.
    """

    def __init__(self, budget: ByteBudget) -> None:
        self.budget = budget
        self.used = 0
        self.peak = 0
        huge = budget.capacity >= MANY * HUGE and hasattr(mmap, "MADV_HUGEPAGE")
        self._page = HUGE if huge else SMALL
        self.reach = budget.capacity // self._page * self._page
        step = min(LARGEST_STEP, max(SMALLEST_STEP, budget.capacity // STEPS))
        self._step = self._whole(step)
        self._map = _mapped(self.reach + self._page)
        self._origin: int = np.ndarray((1,), np.uint8, self._map).__array_interface__["data"][0]
        first = -self._origin % self._page
        if hasattr(mmap, "MADV_HUGEPAGE"):
            # Otherwise a small write may take a whole huge page, which nothing counts.
            self._map.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
        self._warm = Extents()  # free bytes of pages that are charged
        self._cold = Extents()  # pages that are not charged
        self._cold.give(first, self.reach)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the bookkeeping takes."""
        return self._warm.nbytes + self._cold.nbytes

    def view(self, start: int, size: int) -> Payload:
        """The bytes from `start` on, `(size,)`, to be written."""
        return np.ndarray((size,), np.uint8, self._map, start)

    def take(self, size: int) -> int | None:
        """Where `size` bytes of charged pages start, which are taken now; None without."""
        return self._warm.take(size)

    def take_scattered(self, size: int, most: int) -> list[tuple[int, int]] | None:
        """At most `most` stretches, `(start, size)`, of `size` bytes together; None without."""
        return self._warm.take_scattered(size, most)

    def free(self, view: Payload) -> None:
        """Give back the bytes of a view."""
        if view.nbytes:  # An empty one took nothing.
            at: int = view.__array_interface__["data"][0]
            self._warm.give(at - self._origin, aligned(view.nbytes))

    def grow(self, size: int) -> bool:
        """Charge and touch pages until `size` bytes in a row are free; False without room."""
        if self._warm.largest >= size:
            return True
        if self.budget.room < self._page:
            return False
        least = self._whole(size)
        for amount in (max(self._step, least), least):
            if self._cold.largest >= amount and self._charge(amount):
                start = self._cold.take(amount)
                assert start is not None
                return self._warmed(start, amount)
        return self._grow_last(size)

    def shrink(self, size: int) -> int:
        """Give about `size` bytes of free pages back to the system; how many it were."""
        given = 0
        for start, free in sorted(self._warm, key=lambda stretch: -stretch[1]):
            first = start + -(start + self._origin) % self._page
            whole = min(
                (start + free - first) // self._page * self._page, self._whole(size - given)
            )
            if given >= size or whole <= 0 or not hasattr(mmap, "MADV_DONTNEED"):
                break
            self._warm.take_at(first, whole)
            self._map.madvise(mmap.MADV_DONTNEED, first, whole)
            self._cold.give(first, whole)
            self._charge(-whole)
            given += whole
        return given

    def close(self) -> None:
        """Charge nothing any more. The map stays as long as somebody has a view of it."""
        self._charge(-self.used)
        del self._map

    def _grow_last(self, size: int) -> bool:
        """Lengthen a stretch that is free already, by as few pages as possible."""
        room = min(self.budget.room, size)
        if room < self._page:
            return False
        for start, cold in self._cold:
            missing = self._whole(size - self._warm.size_ending_at(start))
            if 0 < missing <= min(cold, room + self._page) and self._charge(missing):
                self._cold.take_at(start, missing)
                return self._warmed(start, missing)
        return False

    def _warmed(self, start: int, size: int) -> bool:
        """Touch charged pages; False, and uncharged again, when the system has no memory."""
        try:
            if sys.platform == "linux":
                self._map.madvise(POPULATE_WRITE, start, size)
        except OSError as error:
            # Older systems do not know this advice; there, pages come when they are written.
            if error.errno == errno.ENOMEM:
                self._charge(-size)
                self._cold.give(start, size)
                return False
        self._warm.give(start, size)
        return True

    def _whole(self, size: int) -> int:
        """`size` rounded up to whole pages."""
        return -(-size // self._page) * self._page

    def _charge(self, size: int) -> bool:
        if not self.budget.charge(size):
            return False
        self.used += size
        self.peak = max(self.peak, self.used)
        return True


def _mapped(size: int) -> mmap.mmap:
    """Address space of `size` bytes, which becomes memory where it is touched."""
    flags = {} if sys.platform == "win32" else {"flags": _private()}
    try:
        return mmap.mmap(-1, size, **flags)
    except (OSError, OverflowError, ValueError) as error:
        raise InputError(
            f"this system cannot map {size:,} bytes of memory ({error}); expected a smaller "
            "max_memory, such as 2**30."
        ) from error


def _private() -> int:
    return mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE

"""The first tier: memory of its own, in pages that are charged before they are touched."""

from __future__ import annotations

import errno
import mmap
import sys
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from transom.errors import InputError
from transom.memory.byte_budget import ByteBudget
from transom.memory.extents import Extents, aligned
from transom.memory.tiers.base import Payload, Tier

__all__ = ["RamTier"]

SMALL, HUGE = mmap.PAGESIZE, 2 << 20  # bytes per page
MANY = 128  # huge pages that make it worth to have them
NORESERVE = 0x4000 if sys.platform == "linux" else 0  # address space, not yet memory
POPULATE_WRITE = 23  # madvise of Linux 5.14: pages now, all at once, or an error
PIECES = 16  # into which a payload is divided at most
STEPS = 512  # parts of the capacity by which it grows, within:
SMALLEST_STEP, LARGEST_STEP = 64 << 10, 4 << 20
HELD = 2  # references to a view that only the tier has, while they are counted
VIEW = sys.getsizeof(np.empty(0, dtype=np.uint8)) + 16  # bytes of an array without its data


class RamTier(Tier):
    """Payloads in one private memory map, so that its bytes are those the system shows.

    `malloc` after much coming and going keeps 7 % more than is in use, which no count of our own
    would see. Here pages are charged to the ledger, then touched, and stay charged until they are
    given back to the system; what fragmentation wastes is charged with them.

    A payload is in one piece, unless there is room only here and there. What was read is a view of
    that memory, not a copy, where it is in one piece. While one is alive its bytes are neither
    used again nor uncharged, also when the key is deleted: they are lent (`lent`).

    Args:
        ledger: what pages are charged to; others may charge it too.

    >>> tier = RamTier(ByteBudget(2**20))
    >>> tier[7] = b"seven"
    >>> bytes(tier[7]), len(tier), tier.used
    (b'seven', 1, 65536)
    """

    name: ClassVar[str] = "ram"
    durable: ClassVar[bool] = False

    def __init__(self, budget: ByteBudget) -> None:
        self.budget = budget
        self.capacity = budget.capacity
        huge = self.capacity >= MANY * HUGE and hasattr(mmap, "MADV_HUGEPAGE")
        self._page = HUGE if huge else SMALL
        pages = self.capacity // self._page
        self._reach = pages * self._page
        step = min(LARGEST_STEP, max(SMALLEST_STEP, self.capacity // STEPS))
        self._step = self._whole(step)
        self._map = _mapped(self._reach + self._page)
        self._origin: int = np.ndarray((1,), np.uint8, self._map).__array_interface__["data"][0]
        first = -self._origin % self._page
        if hasattr(mmap, "MADV_HUGEPAGE"):
            # Not one of those that come whole when a part of them is touched, unless all is theirs.
            self._map.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
        self._views: dict[int, Payload | tuple[Payload, ...]] = {}
        self._labels: dict[int, bytes] = {}
        self._lent: list[Payload] = []
        self._warm = Extents()  # pages that are charged
        self._cold = Extents()  # pages that are not
        self._cold.give(first, self._reach)
        self._pieces = 0
        self._used = 0
        self._peak = 0

    @property
    def used(self) -> int:
        return self._used

    @property
    def peak(self) -> int:
        return self._peak

    @property
    def lent(self) -> int:
        """Bytes of deleted payloads that somebody still has a view of."""
        self._take_back()
        return sum(aligned(view.nbytes) for view in self._lent)

    @property
    def nbytes(self) -> int:
        tables = sys.getsizeof(self._views) + sys.getsizeof(self._labels)
        views = VIEW * (len(self._views) + self._pieces)
        return tables + views + self._warm.nbytes + self._cold.nbytes

    def fits(self, size: int) -> bool:
        return aligned(size) <= self._reach and aligned(size) <= self.capacity

    def in_use(self, key: int) -> bool:
        """Whether somebody has a view of the payload, so that deleting it would free nothing."""
        return sys.getrefcount(self._views[key]) > HELD  # never of pieces: they are not given out

    def _store(self, key: int, source: Payload, header: bytes) -> bool:
        if key in self._views:
            return False
        size = source.nbytes
        if size:
            whole = aligned(size)
            start = self._warm.take(whole)
            if start is None:
                self._take_back()
                if self._grow(whole):
                    start = self._warm.take(whole)
            if start is None:
                return self._store_scattered(key, source, header)
            view: Payload = np.ndarray((size,), np.uint8, self._map, start)
            view[:] = source
        else:
            view = np.empty(0, dtype=np.uint8)
        view.setflags(write=False)
        self._views[key] = view
        if header:
            self._labels[key] = header
        return True

    def _store_scattered(self, key: int, source: Payload, header: bytes) -> bool:
        """Use what is free here and there; to be read, it is copied together."""
        taken = self._warm.take_scattered(aligned(source.nbytes), PIECES)
        if taken is None:
            return False
        at = 0
        pieces = []
        for start, size in taken:
            piece: Payload = np.ndarray(
                (min(size, source.nbytes - at),), np.uint8, self._map, start
            )
            piece[:] = source[at : at + size]
            pieces.append(piece)
            at += size
        self._views[key] = tuple(pieces)
        self._pieces += len(pieces)
        if header:
            self._labels[key] = header
        return True

    def _size(self, key: int) -> int:
        return sum(view.nbytes for view in _pieces(self._views[key]))

    def _header(self, key: int) -> bytes:
        self._views[key]
        return self._labels.get(key, b"")

    def _replace_header(self, key: int, header: bytes) -> None:
        if header:
            self._labels[key] = header

    def may_go(self, key: int) -> bool:
        self._check_open()
        return key not in self._views or not self.in_use(key)

    def verify(self) -> list[int]:
        self._check_open()
        return []  # What memory holds, nothing else can have changed.

    def _close(self) -> None:
        # What somebody has a view of stays as long as the view.
        self._views.clear()
        self._labels.clear()
        self._lent.clear()
        self._charge(-self._used)
        del self._map

    def shrink(self, size: int) -> int:
        """Give about `size` bytes of free pages back to the system; how many it were."""
        self._check_open()
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

    def _load(self, key: int) -> Payload:
        view = self._views[key]
        if not isinstance(view, tuple):
            return view[:]
        joined: Payload = np.concatenate(view)
        joined.setflags(write=False)
        return joined

    def typed(self, key: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """A payload as an array of `dtype`."""
        self._check_open()
        view = self._views[key]
        return self._load(key).view(dtype) if isinstance(view, tuple) else view.view(dtype)

    def pieces(self, key: int) -> tuple[Payload, ...]:
        """A payload in the pieces that it is in: views, to be let go of before anything leaves."""
        self._check_open()
        return _pieces(self._views[key])

    def _replace(self, key: int, source: Payload) -> bool:
        if not self.in_use(key):
            return super()._replace(key, source)
        # To let go of what somebody sees frees nothing, so it may as well wait for the new one.
        former, header = self._views.pop(key), self._labels.pop(key, b"")
        if self._store(key, source, b""):
            self._lent.append(former)  # type: ignore[arg-type]  # never in pieces
            return True
        self._views[key] = former
        if header:
            self._labels[key] = header
        return False

    def _delete(self, key: int) -> None:
        view = self._views.pop(key)
        self._labels.pop(key, None)
        if isinstance(view, tuple):
            self._pieces -= len(view)
            for piece in view:
                self._free(piece)
        elif sys.getrefcount(view) > HELD:
            self._lent.append(view)
        else:
            self._free(view)

    def _keys(self) -> list[int]:
        return list(self._views)

    def __len__(self) -> int:
        self._check_open()
        return len(self._views)

    def _has(self, key: int) -> bool:
        return key in self._views

    def _free(self, view: Payload) -> None:
        if view.nbytes:  # not so where nothing was taken
            self._warm.give(self._start(view), aligned(view.nbytes))

    def _start(self, view: Payload) -> int:
        at: int = view.__array_interface__["data"][0]
        return at - self._origin

    def _take_back(self) -> None:
        """Free what was lent and is no longer used."""
        if self._lent:
            kept = []
            while self._lent:
                view = self._lent.pop()
                if sys.getrefcount(view) > HELD:
                    kept.append(view)
                else:
                    self._free(view)
            self._lent = kept

    def _grow(self, size: int) -> bool:
        """Charge and touch pages until `size` bytes in a row are free, if that can be."""
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

    def _grow_last(self, size: int) -> bool:
        """Lengthen a stretch that is free already, by as little as there must be."""
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
        try:
            if sys.platform == "linux":
                self._map.madvise(POPULATE_WRITE, start, size)
        except OSError as error:
            # Where there is no such advice, pages come one by one, when they are written.
            if error.errno == errno.ENOMEM:
                self._charge(-size)
                self._cold.give(start, size)
                return False
        self._warm.give(start, size)
        return True

    def _whole(self, size: int) -> int:
        """`size` in whole pages."""
        return -(-size // self._page) * self._page

    def _charge(self, size: int) -> bool:
        if not self.budget.charge(size):
            return False
        self._used += size
        self._peak = max(self._peak, self._used)
        return True


def _pieces(view: Payload | tuple[Payload, ...]) -> tuple[Payload, ...]:
    return view if isinstance(view, tuple) else (view,)


def _mapped(size: int) -> mmap.mmap:
    """Address space of `size` bytes, which is memory from where it is first touched."""
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

"""The first tier: payloads in memory."""

from __future__ import annotations

import sys
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from transom.memory.byte_budget import ByteBudget
from transom.memory.extents import aligned
from transom.memory.tiers.base import Payload, Tier
from transom.memory.tiers.pages import Pages

__all__ = ["RamTier"]

PIECES = 16  # into which a payload is divided at most
HELD = 2  # references to a view that only the tier has, while they are counted
VIEW = sys.getsizeof(np.empty(0, dtype=np.uint8)) + 16  # bytes of an array without its data


class RamTier(Tier):
    """Payloads in memory that is charged to a budget.

    A payload is in one piece, or in several where free memory is scattered. Reading one in one
    piece gives a view, not a copy. While the view is alive its bytes are neither used again nor
    uncharged, even when the key is deleted: they are borrowed.

    Args:
        budget: what memory is charged to; others may charge it too.

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
        self._pages = Pages(budget)
        self._views: dict[int, Payload | tuple[Payload, ...]] = {}
        self._headers: dict[int, bytes] = {}
        self._borrowed: list[Payload] = []
        self._pieces = 0

    @property
    def used(self) -> int:
        return self._pages.used

    @property
    def peak(self) -> int:
        return self._pages.peak

    @property
    def borrowed(self) -> int:
        """Bytes of deleted payloads that somebody still has a view of."""
        self._free_returned()
        return sum(aligned(view.nbytes) for view in self._borrowed)

    @property
    def nbytes(self) -> int:
        tables = sys.getsizeof(self._views) + sys.getsizeof(self._headers)
        return tables + VIEW * (len(self._views) + self._pieces) + self._pages.nbytes

    def fits(self, size: int) -> bool:
        return aligned(size) <= self._pages.reach and aligned(size) <= self.capacity

    def in_use(self, key: int) -> bool:
        """Whether somebody has a view of the payload, so that deleting it would free nothing."""
        # A payload in pieces has no views: it is copied when it is read.
        return sys.getrefcount(self._views[key]) > HELD

    def _store(self, key: int, source: Payload, header: bytes) -> bool:
        if key in self._views:
            return False
        size = source.nbytes
        if size:
            whole = aligned(size)
            start = self._pages.take(whole)
            if start is None:
                self._free_returned()
                if self._pages.grow(whole):
                    start = self._pages.take(whole)
            if start is None:
                return self._store_scattered(key, source, header)
            view = self._pages.view(start, size)
            view[:] = source
        else:
            view = np.empty(0, dtype=np.uint8)
        view.setflags(write=False)
        self._views[key] = view
        if header:
            self._headers[key] = header
        return True

    def _store_scattered(self, key: int, source: Payload, header: bytes) -> bool:
        """Store a payload in several pieces; False without room for them."""
        taken = self._pages.take_scattered(aligned(source.nbytes), PIECES)
        if taken is None:
            return False
        at = 0
        pieces = []
        for start, size in taken:
            piece = self._pages.view(start, min(size, source.nbytes - at))
            piece[:] = source[at : at + size]
            pieces.append(piece)
            at += size
        self._views[key] = tuple(pieces)
        self._pieces += len(pieces)
        if header:
            self._headers[key] = header
        return True

    def _size(self, key: int) -> int:
        return sum(view.nbytes for view in _pieces(self._views[key]))

    def _header(self, key: int) -> bytes:
        if key not in self._views:
            raise KeyError(key)
        return self._headers.get(key, b"")

    def _replace_header(self, key: int, header: bytes) -> None:
        if header:
            self._headers[key] = header

    def may_go(self, key: int) -> bool:
        self._check_open()
        return key not in self._views or not self.in_use(key)

    def verify(self) -> list[int]:
        self._check_open()
        return []  # Nothing else can have changed this memory.

    def _close(self) -> None:
        self._views.clear()
        self._headers.clear()
        self._borrowed.clear()
        self._pages.close()

    def shrink(self, size: int) -> int:
        """Give about `size` bytes of free memory back to the system; how many it were."""
        self._check_open()
        return self._pages.shrink(size)

    def _load(self, key: int) -> Payload:
        view = self._views[key]
        if not isinstance(view, tuple):
            return view[:]
        joined: Payload = np.concatenate(view)
        joined.setflags(write=False)
        return joined

    def typed(self, key: int, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
        """A payload as an array of `dtype`."""
        self._check_open()
        view = self._views[key]
        return self._load(key).view(dtype) if isinstance(view, tuple) else view.view(dtype)

    def pieces(self, key: int) -> tuple[Payload, ...]:
        """A payload as views of its pieces; delete them before anything may be evicted."""
        self._check_open()
        return _pieces(self._views[key])

    def _replace(self, key: int, source: Payload) -> bool:
        if not self.in_use(key):
            return super()._replace(key, source)
        # Deleting a payload with a view frees nothing, so the new one is stored first.
        former, header = self._views.pop(key), self._headers.pop(key, b"")
        if self._store(key, source, b""):
            self._borrowed.append(former)  # type: ignore[arg-type]  # never in pieces
            return True
        self._views[key] = former
        if header:
            self._headers[key] = header
        return False

    def _delete(self, key: int) -> None:
        view = self._views.pop(key)
        self._headers.pop(key, None)
        if isinstance(view, tuple):
            self._pieces -= len(view)
            for piece in view:
                self._pages.free(piece)
        elif sys.getrefcount(view) > HELD:
            self._borrowed.append(view)
        else:
            self._pages.free(view)

    def _keys(self) -> list[int]:
        return list(self._views)

    def __len__(self) -> int:
        self._check_open()
        return len(self._views)

    def _has(self, key: int) -> bool:
        return key in self._views

    def _free_returned(self) -> None:
        """Free the borrowed bytes that nobody has a view of any more."""
        if self._borrowed:
            kept = []
            while self._borrowed:
                view = self._borrowed.pop()
                if sys.getrefcount(view) > HELD:
                    kept.append(view)
                else:
                    self._pages.free(view)
            self._borrowed = kept


def _pieces(view: Payload | tuple[Payload, ...]) -> tuple[Payload, ...]:
    return view if isinstance(view, tuple) else (view,)

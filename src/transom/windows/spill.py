"""A nameless file of equal slots, for arrays that should not stay in memory."""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from pathlib import Path

import numpy as np

from transom.errors import InputError
from transom.forks import Owner
from transom.tokens import TokenIds

__all__ = ["SpillFile"]


class SpillFile:
    """`slots` arrays of `length` numbers each, in a file that is removed with this object.

    The file takes its full size when it is made, so that a write cannot find the disk full. It is
    written and read through a memory map whose pages are released after each call, so it adds to
    the memory of the process only during a call.

    Attributes:
        nbytes: size of the file.
        owner: the process that made it; no other can use it.

    Raises:
        InputError: when the folder does not exist, cannot be written to, or has too little room.
    """

    def __init__(self, folder: Path, slots: int, length: int, dtype: np.dtype[np.integer]) -> None:
        self.nbytes = slots * length * dtype.itemsize
        self.owner = Owner(f"the spill file in {folder}", InputError)
        try:
            file = tempfile.TemporaryFile(dir=folder, prefix="transom-")  # noqa: SIM115
            weakref.finalize(self, file.close)
            _reserve(file.fileno(), self.nbytes)
        except OSError as error:
            raise InputError(
                f"cannot make a spill file of {self.nbytes:,} bytes in {folder}: {error.strerror}; "
                "expected a folder open to writing with that much room."
            ) from error
        self._map = mmap.mmap(file.fileno(), self.nbytes)
        self._slots = np.frombuffer(self._map, dtype=dtype).reshape(slots, length)

    def write(self, number: int, values: TokenIds) -> None:
        """Write `(length,)` values to slot `number`, modulo the number of slots."""
        self.owner.check()
        self._slots[number % len(self._slots)] = values
        self._release(number)

    def read(self, number: int) -> TokenIds:
        """A copy of slot `number`, modulo the number of slots."""
        self.owner.check()
        values: TokenIds = self._slots[number % len(self._slots)].copy()
        self._release(number)
        return values

    def _release(self, number: int) -> None:
        if not hasattr(mmap, "MADV_DONTNEED"):
            return  # The system reclaims unused pages when it needs them.
        size = self._slots.strides[0]
        start = number % len(self._slots) * size
        page = start - start % mmap.PAGESIZE
        self._map.madvise(mmap.MADV_DONTNEED, page, start + size - page)


def _reserve(file: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
        return
    block = bytes(1 << 20)
    for start in range(0, size, len(block)):
        os.write(file, block[: size - start])

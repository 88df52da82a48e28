"""Memory for blocks that are not in the cache: the process's own, or a file mapped into it."""

from __future__ import annotations

import mmap
import tempfile
import weakref
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from transom.errors import CacheError, InputError
from transom.forks import Owner
from transom.validation import given_folder

__all__ = ["SEGMENT", "BlockSegment", "BlockStore"]

SEGMENT = 16  # blocks stored together


class BlockSegment(NamedTuple):
    """Keys and values of successive blocks, `(kv_heads, SEGMENT, block, dim)` each."""

    keys: Tensor
    values: Tensor

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes


class BlockStore:
    """Gives out memory for segments of blocks; the layers of a cache share one.

    Args:
        folder: for a file that is mapped into memory; None for the process's own memory. The file
            has no name: it is gone when the process ends, for whatever reason. A fork of the
            process may not use it.

    Raises:
        InputError: when no file can be made there.
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        self.folder = None if folder is None else given_folder("a cache", "cold", folder)
        self._file = None
        self._end = 0
        self._free: dict[int, list[int]] = {}
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115
                weakref.finalize(self, self._file.close)
            except OSError as error:
                raise InputError(
                    f"cold: no file can be made in {self.folder} ({error.strerror}); expected a "
                    "folder that can be written to, or None for memory."
                ) from error
        self._owner = Owner(f"the cold store in {self.folder}", CacheError)

    def check(self) -> None:
        """Refuse to read or write the file in a forked process: the parent reuses its places.

        Raises:
            CacheError: when this is a fork of the process that made the file.
        """
        if self._file is not None:
            self._owner.check()

    def __getstate__(self) -> dict[str, Path | None]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Path | None]) -> None:
        self.__init__(state["folder"])  # type: ignore[misc]

    def segment(
        self, keys: Tensor, values: Tensor, dtype: torch.dtype, pinned: bool
    ) -> BlockSegment:
        """A new segment of zeros, for blocks `(kv_heads, block, dim)` like these.

        Args:
            keys: of one block; only the shape counts.
            values: likewise.
            dtype: of the segment.
            pinned: whether to take page-locked memory, which a GPU copies from faster.
        """
        self.check()
        shapes = [(len(x), SEGMENT, *x.shape[1:]) for x in (keys, values)]
        if self._file is None:
            return BlockSegment(
                *(
                    torch.zeros(shape, dtype=dtype, device="cpu", pin_memory=pinned)
                    for shape in shapes
                )
            )
        sizes = [int(np.prod(shape)) * dtype.itemsize for shape in shapes]
        mapped = self._map(sum(sizes))
        flat = torch.from_numpy(mapped)
        parts = [x.view(dtype) for x in flat[: sum(sizes)].split(sizes)]
        return BlockSegment(*(x.view(shape) for x, shape in zip(parts, shapes, strict=True)))

    def _map(self, size: int) -> np.ndarray:
        """A piece of the file, mapped; another segment gets it once nothing refers to it."""
        assert self._file is not None
        room = -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        free = self._free.setdefault(room, [])
        if free:
            start = free.pop()
        else:
            start, self._end = self._end, self._end + room
            self._file.truncate(self._end)
        mapped = np.memmap(self._file, np.uint8, "r+", offset=start, shape=(room,))
        mapped[:] = 0
        weakref.finalize(mapped, free.append, start)
        return mapped

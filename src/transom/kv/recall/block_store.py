"""Cold storage: the blocks of a row that are not in the cache, in memory or in a mapped file."""

from __future__ import annotations

import mmap
import tempfile
import weakref
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from transom.attention.modes import lasting
from transom.errors import CacheError, InputError
from transom.forks import Owner
from transom.validation import given_folder

__all__ = ["SEGMENT", "BlockStore", "RowBlocks"]

SEGMENT = 16  # blocks stored together


class BlockSegment(NamedTuple):
    """Keys and values of successive blocks, `(kv_heads, SEGMENT, block, dim)` each."""

    keys: Tensor
    values: Tensor

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes


class BlockStore:
    """Where segments are kept.

    Args:
        folder: for a file that memory is mapped to; None for the process's own memory. The file
            has no name: it is gone with the process, however that ends, and no fork may use it.

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
        """Refuse to read or write a file in a fork, where its owner's blocks come and go.

        Raises:
            CacheError: when this is a fork of the process that made the file.
        """
        if self._file is not None:
            self._owner.check()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"])  # type: ignore[misc]

    def segment(
        self, keys: Tensor, values: Tensor, dtype: torch.dtype, pinned: bool
    ) -> BlockSegment:
        """An empty one for blocks `(kv_heads, block, dim)` like these; zeros."""
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
        """A stretch of the file; it can be used again once nothing refers to it."""
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


class RowBlocks:
    """The cold blocks of one row in one layer: the newest leave last.

    Segments are shared with forks; whoever fills one that is shared takes a copy first.

    Attributes:
        first: number of the oldest segment held; blocks are numbered from 1.
        stored: number of the newest block stored, 0 for none.
    """

    def __init__(self, cold: BlockStore) -> None:
        self.cold = cold
        self.segments: deque[BlockSegment] = deque()
        self.first = 0
        self.stored = 0
        self._shared = False

    @property
    def nbytes(self) -> int:
        return sum(segment.nbytes for segment in self.segments)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"segments": list(self.segments)}

    @lasting
    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"segments": deque(), "_shared": False})
        for segment in state["segments"]:
            self.take(segment, torch.device("cpu"))

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Store the next block, `(kv_heads, block, dim)` each."""
        place = self.stored % SEGMENT
        if place == 0:
            segment = self.cold.segment(keys, values, keys.dtype, keys.is_cuda)
            self.segments.append(segment)
        elif self._shared or self.segments[-1].keys.dtype != keys.dtype:
            copied = self._copied(self.segments[-1], keys.is_cuda, keys.dtype)
            self.segments[-1] = copied
        self._shared = False
        for pool, block in zip(self.segments[-1], (keys, values), strict=True):
            pool[:, place] = block.to(pool.device)
        self.stored += 1

    def block(self, number: int, head: int) -> tuple[Tensor, Tensor]:
        """Keys and values `(block, dim)` of a block that is held; views."""
        (keys, values), place = self._at(number)
        return keys[head, place], values[head, place]

    def keys(self, number: int) -> Tensor:
        """Keys `(kv_heads, block, dim)` of a block that is held; a view."""
        segment, place = self._at(number)
        return segment.keys[:, place]

    def _at(self, number: int) -> tuple[BlockSegment, int]:
        """The segment of a block, and which of its blocks it is."""
        segment, place = divmod(number - 1, SEGMENT)
        return self.segments[segment - self.first], place

    def take(self, saved: BlockSegment, device: torch.device) -> None:
        """Hold one more segment, copied from what was saved of it; counts are not changed."""
        self.segments.append(self._copied(saved, device.type == "cuda", saved.keys.dtype))

    def _copied(self, segment: BlockSegment, pinned: bool, dtype: torch.dtype) -> BlockSegment:
        mine = self.cold.segment(segment.keys[:, 0], segment.values[:, 0], dtype, pinned)
        for own, pool in zip(mine, segment, strict=True):
            own[:, : pool.shape[1]].copy_(pool)
        return mine

    def forget(self, before: int) -> None:
        """Give up segments that have only blocks of lower numbers than this."""
        while self.segments and (self.first + 1) * SEGMENT < before:
            self.segments.popleft()
            self.first += 1

    def fork(self) -> RowBlocks:
        """The same blocks for another context."""
        twin = RowBlocks(self.cold)
        twin.segments, twin.first, twin.stored = deque(self.segments), self.first, self.stored
        self._shared = twin._shared = True
        return twin

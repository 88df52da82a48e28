"""Committed bytes of files as memory-mapped arrays, with few pages mapped at a time."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transom.corpus.growing import short_of
from transom.corpus.manifest import Stored
from transom.errors import CorpusDamageError
from transom.tokens import TokenIds, TokenRuns

__all__ = ["MappedFile", "MappedTokens"]

HELD = 8 << 20  # bytes before the reading position that stay mapped
NEAR = 4 << 20  # bytes that sequential reading may skip


class MappedFile:
    """The committed part of a file as a read-only array.

    Raises:
        CorpusDamageError: when the file is missing or too short.
    """

    def __init__(self, folder: Path, stored: Stored, dtype: np.dtype[np.integer]) -> None:
        self._map: mmap.mmap | None = None
        if not stored.bytes:
            self.array: TokenIds = np.empty(0, dtype=dtype)
            return
        path = folder / stored.name
        try:
            with path.open("rb") as file:
                found = file.seek(0, 2)
                if found < stored.bytes:
                    raise short_of(path, found, stored.bytes)
                self._map = mmap.mmap(file.fileno(), stored.bytes, access=mmap.ACCESS_READ)
        except OSError as error:
            raise CorpusDamageError(
                f"{path} cannot be read: {error.strerror}; {stored.bytes:,} bytes of it were "
                "committed."
            ) from error
        self.array = np.frombuffer(self._map, dtype=dtype)

    def release(self, start: int = 0, stop: int | None = None) -> None:
        """Release the memory of some items; they are mapped again when read."""
        if self._map is None or not hasattr(mmap, "MADV_DONTNEED"):
            return  # The system reclaims unused pages when it needs them.
        size = self.array.itemsize
        first = -(-start * size // mmap.PAGESIZE) * mmap.PAGESIZE
        last = len(self._map) if stop is None else stop * size // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first:
            self._map.madvise(mmap.MADV_DONTNEED, first, last - first)


class MappedTokens(TokenRuns):
    """Ids of mapped shards; sequential reading releases the pages it has passed.

    Random reading releases nothing: mapped pages make it fast, and the system reclaims them when
    it needs them.
    """

    def __init__(self, shards: list[MappedFile], dtype: np.dtype[np.integer]) -> None:
        super().__init__([shard.array for shard in shards], dtype)
        self._shards = [shard for shard in shards if len(shard.array)]
        self._held = HELD // dtype.itemsize
        self._near = NEAR // dtype.itemsize
        self._from = self._at = 0  # the sequentially read part that is still mapped

    def read(self, start: int, stop: int) -> TokenIds:
        self._reading(start, stop)
        return super().read(start, stop)

    def strided(self, start: int, stop: int, stride: int, length: int) -> TokenIds | None:
        self._reading(start, stop)
        return super().strided(start, stop, stride, length)

    def gather(
        self, start: NDArray[np.int64], length: int, out: TokenIds
    ) -> NDArray[np.int64] | None:
        if len(start):
            self._reading(int(start[0]), int(start[-1]))
        return super().gather(start, length, out)

    def _reading(self, start: int, stop: int) -> None:
        """Note that positions `start` to `stop` are read next."""
        in_order = self._from <= start <= self._at + self._near and stop - start <= self._near
        if not in_order:
            self._from = start
        elif start - self._from > self._held:
            self._release(self._from, start)
            self._from = start
        self._at = max(start, stop) if in_order else start

    def _release(self, start: int, stop: int) -> None:
        for shard, first, last in zip(self._shards, self._starts, self._stops, strict=True):
            if first < stop and last > start:
                end = min(stop, last) - first
                # Once a shard is passed, all of it, its last page included.
                shard.release(max(0, int(start - first)), None if stop >= last else int(end))

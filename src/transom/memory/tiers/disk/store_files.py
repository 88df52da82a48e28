"""The files of a store, opened together."""

from __future__ import annotations

import contextlib
from pathlib import Path

from transom.errors import StoreError
from transom.memory.tiers.base import LONGEST_HEADER
from transom.memory.tiers.disk.block_files import BlockFiles
from transom.memory.tiers.disk.catalogue import Catalogue
from transom.memory.tiers.disk.data_file import FIRST, DataFile
from transom.memory.tiers.disk.free_space import FreeSpace
from transom.memory.tiers.disk.index import index_file_size, item_size
from transom.memory.tiers.disk.lock import FolderLock
from transom.memory.tiers.disk.recovery import recover
from transom.memory.tiers.disk.shared import PEAK, USED, Shared, ring_size

__all__ = ["StoreFiles"]

PAGE = 4096


class StoreFiles:
    """The files of a store in one process.

    Args:
        path: the folder; made when there is none.
        capacity: most bytes that all files may take.

    Attributes:
        writable: whether the store can be changed.
        lock: the lock between processes.
        shared: numbers that all processes map.
        data: small payloads.
        index: path of the index.
        known: where every payload is.
        room: how much of the capacity is taken.
        blocks: large payloads.
        fixed: bytes that an empty store takes.
        slot: of this process among those that share the store; -1 without one.

    Raises:
        StoreError: when the store takes more than `capacity`.
        OSError: when the files cannot be used.
    """

    def __init__(self, path: Path, capacity: int) -> None:
        self.path = path
        self.index = path / "index"
        self.writable = True
        self.slot = -1
        folder = path / "blocks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.lock = FolderLock(path / "lock", writable=True)
        except OSError:
            if not (path / "lock").exists():
                raise
            self.writable = False
            self.lock = FolderLock(path / "lock", writable=False)
        with contextlib.ExitStack() as opened:
            opened.callback(self.lock.close)
            with self.lock:
                self.shared = Shared(path / "shared", self.writable, ring_size(capacity))
                opened.callback(self.shared.close)
                self.data = DataFile(path / "data", self.writable)
                opened.callback(self.data.close)
                self.fixed = (
                    self.shared.used + FIRST + 2 * index_file_size(item_size(LONGEST_HEADER))
                )
                self.known = Catalogue(self.data, self.shared, self.index, self.writable)
                self.room = FreeSpace(capacity, self.shared, self.data, self.known)
                self.blocks = BlockFiles(folder, self.room)
                self._recover(capacity)
            opened.pop_all()

    def _recover(self, capacity: int) -> None:
        """Put right what killed processes left, and become one of the processes."""
        alone = self.writable and recover(self.path, self.shared, self.data, capacity)
        self.known.load()
        if self.writable:
            # Who writes a block file has the lock until its record is written.
            places = self.known.places.items()
            self.blocks.remove_unknown((key, place) for key, place in places if place.large)
        if alone:
            self._trim(capacity)
        if self.writable:
            self.slot = self.shared.join()

    def _trim(self, capacity: int) -> None:
        """Give back the free end of the data file; there is no other process."""
        free = self.known.trim(PAGE)
        if free:
            before = self.data.used
            self.data.shrink(self.data.size - free)
            self.room.charge(self.data.used - before)
        used = self.shared.words[USED]
        self.shared.words[PEAK] = used
        if used > capacity:
            raise StoreError(
                f"{self.path} takes {used:,} bytes, more than the {capacity:,} that it "
                "may; expected a larger capacity, or `transom memory clear` before."
            )

    def close(self) -> None:
        """Close all files."""
        self.shared.close()
        self.data.close()
        self.lock.close()

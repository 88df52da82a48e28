"""The folder of block files: payloads of a MiB and more, each in a file of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from transom.memory.rate_limited_log import RateLimitedLog
from transom.memory.tiers.disk.block_file import (
    DamagedError,
    file_size,
    files,
    in_use,
    map_file,
    on_disk,
    write_file,
)
from transom.memory.tiers.disk.free_space import FreeSpace
from transom.memory.tiers.disk.record import DiskRecord, Place
from transom.memory.tiers.payload import Payload

__all__ = ["BlockFiles"]

logger = logging.getLogger("transom.memory.disk")


class BlockFiles:
    """Files by key and generation, charged to the room of a store.

    A file that somebody reads cannot be deleted yet. It stays charged, and deleting it is tried
    again before the next file is written.

    Args:
        folder: where the files are.
        room: what they are charged to.

    Attributes:
        failures: how often a file could not be written or deleted.
    """

    def __init__(self, folder: Path, room: FreeSpace) -> None:
        self.failures = 0
        self._folder = folder
        self._room = room
        self._lingering: list[Path] = []
        self._trouble = RateLimitedLog(
            logger, logging.WARNING, f"%d files in {folder} could not be written or deleted: %s"
        )

    def path(self, key: int, place: Place) -> Path:
        """The file of a payload."""
        return self._folder / f"{key:016x}-{place.generation}.kv"

    def write(self, record: DiskRecord, payload: Payload, items: int) -> bool:
        """Write the file of a record; False without room.

        Args:
            record: whose payload it is.
            payload: `(bytes,)` uint8.
            items: bytes that the record takes in an index.
        """
        size = file_size(payload.nbytes)
        if not self._room.holds(size, items):
            return False
        path = self.path(record.key, record.place)
        self._room.charge(size)
        try:
            write_file(path, record.key, payload)
        except OSError as error:
            self._room.charge(-size)
            self._failed(error)
            return False
        self._room.charge(on_disk(path) - size)
        return True

    def read(self, key: int, place: Place) -> Payload | None:
        """The payload, `(bytes,)` uint8, mapped; None when it is damaged or gone."""
        try:
            return map_file(self.path(key, place), key)
        except (OSError, DamagedError):
            return None

    def in_use(self, key: int, place: Place) -> bool:
        """Whether somebody, in any process, reads the payload."""
        return in_use(self.path(key, place))

    def remove(self, key: int, place: Place) -> None:
        """Delete the file of a payload, as soon as nobody reads it."""
        self._remove(self.path(key, place))

    def remove_lingering(self) -> None:
        """Try again to delete the files that could not be deleted."""
        paths, self._lingering = self._lingering, []
        for path in paths:
            self._remove(path)

    def remove_unknown(self, known: Iterable[tuple[int, Place]]) -> None:
        """Delete the files that are none of `known`, which killed processes left."""
        kept = {self.path(key, place) for key, place in known}
        for path in files(self._folder, ".kv"):
            if path not in kept:
                self._remove(path)

    def _remove(self, path: Path) -> None:
        size = on_disk(path)
        try:
            if in_use(path):
                self._lingering.append(path)
                return
            path.unlink(missing_ok=True)
        except OSError as error:
            self._failed(error)
            self._lingering.append(path)
            return
        self._room.charge(-size)

    def _failed(self, error: OSError) -> None:
        self.failures += 1
        self._trouble.count(error.strerror or error)

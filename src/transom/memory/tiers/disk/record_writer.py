"""Changing the data file: every change is announced first, so that a killed one is finished."""

from __future__ import annotations

import contextlib
import logging

from xxhash import xxh3_64_intdigest

from transom.memory.extents import aligned
from transom.memory.rate_limited_log import RateLimitedLog
from transom.memory.tiers.disk.block_file import DamagedError
from transom.memory.tiers.disk.index import item_size, write_index
from transom.memory.tiers.disk.record import HEADER, DiskRecord, Place
from transom.memory.tiers.disk.shared import ADDED, GENERATION, NEW_HEADER, REMOVED
from transom.memory.tiers.disk.store_files import StoreFiles
from transom.memory.tiers.payload import Payload

__all__ = ["RecordWriter"]

logger = logging.getLogger("transom.memory.disk")


class RecordWriter:
    """Writes and removes records, and tells other processes.

    While a record is written or removed, `shared.intent` says where. A process that finds an intent
    after taking the lock removes the record there: its writer was killed.

    Attributes:
        failures: how often a record could not be written.

    Notes:
        Callers hold the lock between processes.
    """

    def __init__(self, files: StoreFiles) -> None:
        self.failures = 0
        self._files = files
        self._shared, self._data, self._known = files.shared, files.data, files.known
        self._trouble = RateLimitedLog(
            logger, logging.WARNING, f"%d payloads could not be written to {files.path}: %s"
        )

    def write(self, key: int, source: Payload, header: bytes, *, large: bool) -> DiskRecord | None:
        """Write a record and tell other processes; None without room.

        Args:
            key: which nothing is stored under, or will be replaced.
            source: the payload.
            header: what is stored beside it.
            large: whether the payload has a file of its own.
        """
        shared, blocks, room = self._shared, self._files.blocks, self._files.room
        blocks.remove_lingering()
        items = item_size(len(header))
        length = aligned(HEADER + len(header) + (0 if large else source.nbytes))
        start = room.take(length, items)
        if start is None:
            return None
        check = 0 if large else xxh3_64_intdigest(source.data, key)
        generation = shared.words[GENERATION]
        record = DiskRecord(key, start, generation, source.nbytes, check, large, header)
        if large and not blocks.write(record, source, items):
            self._known.free.give(start, length)
            return None
        shared.intent = start
        try:
            self._data.write(record, None if large else source)
            shared.publish(ADDED, start, key)
        except BaseException as error:
            self.failures += 1
            self._data.remove(start)
            self._known.free.give(start, length)
            if isinstance(error, OSError):
                self._trouble.count(error.strerror or error)
                return None
            raise
        finally:
            shared.intent = 0
        return record

    def replace_header(self, key: int, place: Place, header: bytes) -> None:
        """Replace the header of a record and tell other processes."""
        record = self._data.record(place.start)
        if record is not None and record.key == key:
            self._data.write(record._replace(header=header), None)
            self._shared.publish(NEW_HEADER, place.start, key)
            self._known.seen += 1

    def remove(self, key: int, place: Place) -> None:
        """Remove the record of `key` and tell other processes."""
        self._shared.intent = place.start
        self._shared.publish(REMOVED, place.start, key)
        self.remove_former(key, place)

    def remove_former(self, key: int, place: Place) -> None:
        """Remove the record at `place`, in place of which another one of `key` was written."""
        self._shared.intent = place.start
        self._data.remove(place.start)
        self._shared.intent = 0
        if place.large:
            self._files.blocks.remove(key, place)

    def write_index(self) -> None:
        """Write the index, if there is room for it."""
        files = self._files
        places = self._known.places.values()
        with contextlib.suppress(DamagedError), files.room.for_index(files.index) as allowed:
            if allowed:
                records = map(self._record, places)
                write_index(files.index, records, self._shared.generation, self._data.salt)

    def _record(self, place: Place) -> DiskRecord:
        record = self._data.record(place.start)
        if record is None:  # Without an index, opening searches the data file.
            raise DamagedError(f"no record at byte {place.start:,} of the data file")
        return record

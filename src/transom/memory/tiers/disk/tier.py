"""The disk tier: payloads in a data file or in files of their own, shared by processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from typing import ClassVar

from transom.errors import InputError, StoreError
from transom.forks import Owner
from transom.memory.extents import aligned
from transom.memory.rate_limited_log import RateLimitedLog
from transom.memory.tiers.base import LONGEST_HEADER, Payload, Tier, TierEvent
from transom.memory.tiers.disk.block_file import file_size
from transom.memory.tiers.disk.inspection import known_capacity
from transom.memory.tiers.disk.lock import ExclusiveLock
from transom.memory.tiers.disk.record import HEADER, DiskRecord, Place
from transom.memory.tiers.disk.record_writer import RecordWriter
from transom.memory.tiers.disk.recovery import finish_intent
from transom.memory.tiers.disk.shared import PEAK, USED
from transom.memory.tiers.disk.store_files import StoreFiles
from transom.validation import given_folder, whole_number

__all__ = ["DiskTier"]

LARGE = 1 << 20  # bytes from which on a payload has a file of its own
LARGEST = 2**62  # bytes of a store, far beyond what file systems hold

logger = logging.getLogger("transom.memory.disk")


class DiskTier(Tier):
    """Payloads in a folder, in at most `capacity` bytes as the file system counts them.

    Small payloads are records in one data file, each in a free place of it. Payloads of a MiB and
    more have an immutable file each, which is mapped, not read. Every payload has a checksum, which
    is compared whenever it is read. The index says where everything was when the store was closed,
    and opening adds the changes since. Without a good index the data file is searched for records.

    One process at a time changes the store, under a file lock. Each knows all keys. Before it looks
    for anything it learns from shared memory what the others did.

    Args:
        path: the folder; made when there is none.
        capacity: most bytes that all its files may take; None for as many as when it was opened
            last.

    Raises:
        StoreError: when the folder cannot be used.

    Notes:
        All payloads outlive the process. They survive a loss of power after `flush`; those of a MiB
        and more always do.
    """

    name: ClassVar[str] = "disk"
    durable: ClassVar[bool] = True

    def __init__(self, path: str | os.PathLike[str], capacity: int | None = None) -> None:
        self.path = given_folder("DiskTier", "path", path)
        if capacity is None:
            capacity = known_capacity(self.path)
        self.capacity = whole_number("DiskTier", "capacity", capacity, 1, unit="bytes")
        if self.capacity > LARGEST:
            raise InputError(f"DiskTier: capacity is {capacity:,}; expected at most {LARGEST:,}.")
        self._owner = Owner(f"the store of contexts in {self.path}", StoreError)
        self._damage = RateLimitedLog(
            logger, logging.WARNING, f"%d damaged payloads in {self.path} were deleted"
        )
        try:
            files = StoreFiles(self.path, self.capacity)
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(
                f"cannot use {self.path} as a store of contexts: {error.strerror or error}; "
                "expected a folder that can be written to, or a store that can be read, on a disk "
                "with room."
            ) from error
        self._files = files
        self._shared, self._data, self._known = files.shared, files.data, files.known
        self._room, self._blocks, self._lock = files.room, files.blocks, files.lock
        self._writer = RecordWriter(files)
        self.writable = files.writable
        self.salt = files.data.salt
        self._exclusive = ExclusiveLock(self._check_open, files.lock, self._take_over)

    def _take_over(self) -> None:
        """Finish what a killed process left half-way, and learn what others did."""
        if self.writable and self._shared.intent:
            finish_intent(self._shared, self._data)
        self._catch_up()

    def _catch_up(self) -> None:
        """Learn what other processes did since the last call."""
        if self._shared.generation == self._known.seen:
            return
        with self._lock:
            changes = self._shared.changes(self._known.seen)
            if changes is None:
                self._known.load()
            else:
                self._known.apply(changes)
                self._known.seen = self._shared.generation

    # For those who share it

    @property
    def steady(self) -> bool:
        return self._lock.depth > 0

    def exclusive(self) -> ExclusiveLock:
        return self._exclusive

    def news(self) -> Iterable[TierEvent]:
        self._check_open()
        self._catch_up()
        return self._known.news()

    def maps(self, size: int) -> bool:
        return size >= LARGE

    def report(self, numbers: Sequence[int]) -> None:
        if self.writable and not self.closed:
            self._shared.report(self._files.slot, numbers)

    def pin(self, key: int) -> None:
        if self.writable:
            with self._exclusive:
                self._shared.pin(key)

    def unpin(self, key: int) -> None:
        if self.writable and not self.closed:
            with self._exclusive:
                self._shared.unpin(key)

    def may_go(self, key: int) -> bool:
        self._check_open()
        if not self.writable or self._shared.pinned(key):
            return False
        place = self._known.places.get(key)
        return place is None or not place.large or not self._blocks.in_use(key, place)

    # Bytes

    @property
    def used(self) -> int:
        return 0 if self.closed else self._shared.words[USED]

    @property
    def peak(self) -> int:
        return 0 if self.closed else self._shared.words[PEAK]

    @property
    def failures(self) -> int:
        """How often the disk was full, or a file could not be written or deleted."""
        return self._writer.failures + self._blocks.failures + self._room.failures

    @property
    def nbytes(self) -> int:
        return self._known.nbytes

    @property
    def growth(self) -> int:
        return self._known.growth

    @property
    def full(self) -> bool:
        return self._known.places.full

    def fits(self, size: int) -> bool:
        own = file_size(size) if self.maps(size) else 0
        inline = 0 if self.maps(size) else size
        record = aligned(HEADER + LONGEST_HEADER + inline)
        return record + own + self._files.fixed <= self.capacity

    # Writing

    def _store(self, key: int, source: Payload, header: bytes) -> bool:
        with self._exclusive:
            if key in self._known.places:
                return False  # Another process was faster.
            record = self._write(key, source, header)
            if record is None:
                return False
            self._known.add(record)
            return True

    def _write(self, key: int, source: Payload, header: bytes) -> DiskRecord | None:
        return self._writer.write(key, source, header, large=self.maps(source.nbytes))

    def _replace(self, key: int, source: Payload) -> bool:
        with self._exclusive:
            former = self._known.places[key]
            record = self._write(key, source, b"")
            if record is None:
                # Deleting what somebody reads frees no room.
                return self.may_go(key) and super()._replace(key, source)
            self._writer.remove_former(key, former)
            self._known.forget_own(key)
            self._known.seen -= 1  # Others learn both from the one change.
            self._known.add(record)
            return True

    def _replace_header(self, key: int, header: bytes) -> None:
        with self._exclusive:
            self._writer.replace_header(key, self._known.places[key], header)

    def _delete(self, key: int) -> None:
        with self._exclusive:
            self._writer.remove(key, self._known.places[key])
            self._known.forget_own(key)

    # Reading

    def _load(self, key: int) -> Payload:
        self._catch_up()
        place = self._known.places[key]
        payload = self._read(key, place)
        while payload is None:
            # Unless another process changed it meanwhile, it is damaged.
            self._catch_up()
            if self._known.places[key] == place:
                self._forget_damaged(key)
                raise KeyError(key)
            place = self._known.places[key]
            payload = self._read(key, place)
        return payload

    def _read(self, key: int, place: Place) -> Payload | None:
        return self._blocks.read(key, place) if place.large else self._data.read(key, place)

    def _forget_damaged(self, key: int) -> None:
        self.corrupt += 1
        self._damage.count()
        if self.writable:
            del self[key]
        else:
            self._known.forget(key)

    def _size(self, key: int) -> int:
        return self._known.places[key].size

    def _header(self, key: int) -> bytes:
        record = self._data.record(self._known.places[key].start)
        return b"" if record is None or record.key != key else record.header

    def _keys(self) -> list[int]:
        self._catch_up()
        return list(self._known.places)

    def __len__(self) -> int:
        self._check_open()
        self._catch_up()
        return len(self._known.places)

    def _has(self, key: int) -> bool:
        self._catch_up()
        return key in self._known.places

    # The whole

    def verify(self) -> list[int]:
        self._check_open()
        damaged = []
        for key in list(self._known.places):
            try:
                self[key]
            except KeyError:
                damaged.append(key)
        return damaged

    def flush(self) -> None:
        self._check_open()
        if self.writable:
            with self._exclusive:
                self._data.sync()
                self._writer.write_index()

    def _close(self) -> None:
        if self._owner.is_here:
            with self._lock:
                if self.writable:
                    self._catch_up()
                    self._blocks.remove_lingering()
                    self._writer.write_index()
                    self._shared.forget_process(self._files.slot, os.getpid())
        self._files.close()

    def _check_open(self) -> None:
        if self.closed:
            raise StoreError(f"{self.path} was closed here; open it again.")
        self._owner.check()

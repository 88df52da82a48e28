"""The disk tier: payloads in a data file or in files of their own, shared by processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from xxhash import xxh3_64_intdigest

from transom.errors import InputError, StoreError
from transom.forks import Owner
from transom.memory.extents import aligned
from transom.memory.tiers.base import LONGEST_LABEL, Payload, Tier, TierEvent
from transom.memory.tiers.disk.blockfile import (
    DamagedError,
    file_size,
    files,
    in_use,
    map_file,
    on_disk,
    write_file,
)
from transom.memory.tiers.disk.catalogue import Catalogue
from transom.memory.tiers.disk.datafile import FIRST, DataFile
from transom.memory.tiers.disk.free_space import FreeSpace
from transom.memory.tiers.disk.index import index_file_size, item_size, write_index
from transom.memory.tiers.disk.inspection import known_capacity
from transom.memory.tiers.disk.lock import FolderLock
from transom.memory.tiers.disk.record import HEADER, DiskRecord, Place
from transom.memory.tiers.disk.recovery import finish_intent, recover
from transom.memory.tiers.disk.shared import (
    ADD,
    DROP,
    GENERATION,
    PEAK,
    RELABEL,
    USED,
    Shared,
    ring_size,
)
from transom.validation import given_folder, whole_number

__all__ = ["DiskTier"]

LARGE = 1 << 20  # bytes from which on a payload has a file of its own
PAGE = 4096
LARGEST = 2**62  # bytes of a store, far beyond what file systems hold


class DiskTier(Tier):
    """Payloads in a folder, never more than `capacity` bytes of it as the file system counts.

    Small payloads are records in one data file, written where others left; those from a MiB on
    have an immutable file each, which is mapped, not read. Every payload has a checksum, which is
    looked at whenever it is read. Opening takes what is where from an index that was written when
    the store was closed, and the changes since; where either is missing or damaged, it looks
    through the data file for headers.

    Processes take turns with a file lock. Each knows all keys, and learns what the others did from
    the latest changes in shared memory, before it looks for anything.

    Args:
        path: the folder; made when there is none.
        capacity: most bytes it may take, all its files together; None for what was said when it was
            opened last, which must have been.

    Raises:
        StoreError: when the folder cannot be used.

    Notes:
        Everything that was stored outlives the process. It outlives a loss of power after `flush`;
        payloads from a MiB on always do.
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
        self._failures = 0
        self._lingering: list[Path] = []  # files to be deleted once that can be
        self._slot = -1
        self._turn = ExclusiveLock(self)
        try:
            self._open()
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(
                f"cannot use {self.path} as a store of contexts: {error.strerror or error}; "
                "expected a folder that can be written to, or a store that can be read, on a disk "
                "with room."
            ) from error

    def _open(self) -> None:
        self._blocks = self.path / "blocks"
        self.writable = True
        try:
            self._blocks.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.path / "lock", writable=True)
        except OSError:
            if not (self.path / "lock").exists():
                raise
            self.writable = False
            self._lock = FolderLock(self.path / "lock", writable=False)
        with contextlib.ExitStack() as opened:
            opened.callback(self._lock.close)
            self._lock.acquire()
            opened.callback(self._lock.release)
            self._open_files(opened)
            opened.pop_all()
        self._lock.release()

    def _open_files(self, opened: contextlib.ExitStack) -> None:
        self._shared = Shared(self.path / "shared", self.writable, ring_size(self.capacity))
        opened.callback(self._shared.close)
        self._data = DataFile(self.path / "data", self.writable)
        opened.callback(self._data.close)
        self._fixed = self._shared.used + FIRST + 2 * index_file_size(item_size(LONGEST_LABEL))
        index = self.path / "index"
        self._known = Catalogue(self._data, self._shared, index, self.writable)
        self._room = FreeSpace(self.capacity, self._shared, self._data, self._known)
        alone = self.writable and recover(self.path, self._shared, self._data, self.capacity)
        self.salt = self._data.salt
        self._known.load()
        if self.writable:
            self._remove_orphans()
        if alone:
            self._trim()
        if self.writable:
            self._slot = self._shared.join()

    def _trim(self) -> None:
        """Give back the end of the data file where nothing is; there is no other process."""
        free = self._known.trim(PAGE)
        if free:
            before = self._data.used
            self._data.shrink(self._data.size - free)
            self._room.charge(self._data.used - before)
        self._shared.words[PEAK] = self.used
        if self.used > self.capacity:
            raise StoreError(
                f"{self.path} takes {self.used:,} bytes, more than the {self.capacity:,} that it "
                "may; expected a larger capacity, or `transom memory clear` before."
            )

    def _remove_orphans(self) -> None:
        """Files that no record knows. Who writes one has the lock until a record does."""
        places = self._known.places
        known = {self._path(key, place) for key, place in places.items() if place.large}
        for path in files(self._blocks, ".kv"):
            if path not in known:
                self._remove_file(path)

    # What is where

    def _follow(self) -> None:
        """Learn what other processes did since this was asked last."""
        if self._shared.generation == self._known.seen:
            return
        with self._turn.alone():
            changes = self._shared.changes(self._known.seen)
            if changes is None:
                self._known.load()
            else:
                self._known.apply(changes)
                self._known.seen = self._shared.generation

    @property
    def steady(self) -> bool:
        return self._lock.depth > 0

    def exclusive(self) -> ExclusiveLock:
        return self._turn

    def news(self) -> Iterable[TierEvent]:
        self._check_open()
        self._follow()
        return self._known.news()

    # Room

    @property
    def used(self) -> int:
        return 0 if self.closed else self._shared.words[USED]

    @property
    def peak(self) -> int:
        return 0 if self.closed else self._shared.words[PEAK]

    @property
    def failures(self) -> int:
        """Times that the disk was full, or a file could not be written or deleted."""
        return self._failures + self._room.failures

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
        return aligned(HEADER + LONGEST_LABEL + inline) + own + self._fixed <= self.capacity

    def maps(self, size: int) -> bool:
        return size >= LARGE

    # Payloads

    def _store(self, key: int, source: Payload, header: bytes) -> bool:
        with self._turn:
            if key in self._known.places:
                return False  # another process was faster
            record = self._write(key, source, header)
            if record is None:
                return False
            self._known.add(record)
            return True

    def _write(self, key: int, source: Payload, header: bytes) -> DiskRecord | None:
        """Write a record and tell the others; None when there is no room."""
        if self._lingering:
            self._remove_lingering()
        large = self.maps(source.nbytes)
        items = item_size(len(header))
        length = aligned(HEADER + len(header) + (0 if large else source.nbytes))
        start = self._room.take(length, items)
        if start is None:
            return None
        shared = self._shared
        check = 0 if large else xxh3_64_intdigest(source.data, key)
        generation = shared.words[GENERATION]
        record = DiskRecord(key, start, generation, source.nbytes, check, large, header)
        if large and not self._write_large(record, source, items):
            self._known.free.give(start, length)
            return None
        shared.intent = start
        try:
            self._data.write(record, None if large else source)
            shared.publish(ADD, start, key)
        except BaseException as error:
            self._failures += 1
            self._data.erase(start)
            self._known.free.give(start, length)
            if isinstance(error, OSError):
                return None
            raise
        finally:
            shared.intent = 0
        return record

    def _replace(self, key: int, source: Payload) -> bool:
        with self._turn:
            former = self._known.places[key]
            record = self._write(key, source, b"")
            if record is None:
                # What somebody sees keeps its room, so that letting go of it would not help.
                return self.may_go(key) and super()._replace(key, source)
            self._erase(key, former)
            self._known.drop(key)
            self._known.seen -= 1  # the others learn both from the one change
            self._known.add(record)
            return True

    def _erase(self, key: int, place: Place) -> None:
        """Have no record at `place`, which nobody knows as that of `key` any longer."""
        self._shared.intent = place.start
        self._data.erase(place.start)
        self._shared.intent = 0
        if place.large:
            self._remove_file(self._path(key, place))

    def _write_large(self, record: DiskRecord, payload: Payload, items: int) -> bool:
        size = file_size(payload.nbytes)
        if not self._room.holds(size, items):
            return False
        path = self._path(record.key, record.place)
        self._room.charge(size)
        try:
            write_file(path, record.key, payload)
        except OSError:
            self._room.charge(-size)
            self._failures += 1
            return False
        self._room.charge(on_disk(path) - size)
        return True

    def _path(self, key: int, place: Place) -> Path:
        return self._blocks / f"{key:016x}-{place.generation}.kv"

    def _load(self, key: int) -> Payload:
        self._follow()
        place = self._known.places[key]
        payload = self._read(key, place)
        while payload is None:
            # Unless another process changed it meanwhile, it is damaged.
            self._follow()
            if self._known.places[key] == place:
                self._lose(key)
                raise KeyError(key)
            place = self._known.places[key]
            payload = self._read(key, place)
        return payload

    def _lose(self, key: int) -> None:
        self.corrupt += 1
        if self.writable:
            del self[key]
        else:
            self._known.unlearn(key)

    def _read(self, key: int, place: Place) -> Payload | None:
        if not place.large:
            return self._data.read(key, place)
        try:
            return map_file(self._path(key, place), key)
        except (OSError, DamagedError):
            return None

    def _delete(self, key: int) -> None:
        with self._turn:
            place = self._known.places[key]
            self._shared.intent = place.start
            self._shared.publish(DROP, place.start, key)
            self._erase(key, place)
            self._known.drop(key)

    def _remove_file(self, path: Path) -> None:
        """Delete a file, as soon as nobody sees it; until then it stays charged."""
        size = on_disk(path)
        try:
            if in_use(path):
                self._lingering.append(path)
                return
            path.unlink(missing_ok=True)
        except OSError:
            self._failures += 1
            self._lingering.append(path)
            return
        self._room.charge(-size)

    def _remove_lingering(self) -> bool:
        """Try again to delete files; whether any is gone."""
        paths, self._lingering = self._lingering, []
        for path in paths:
            self._remove_file(path)
        return len(self._lingering) < len(paths)

    def _size(self, key: int) -> int:
        return self._known.places[key].size

    def _header(self, key: int) -> bytes:
        record = self._data.record(self._known.places[key].start)
        return b"" if record is None or record.key != key else record.header

    def _replace_header(self, key: int, header: bytes) -> None:
        with self._turn:
            place = self._known.places[key]
            record = self._data.record(place.start)
            if record is not None and record.key == key:
                self._data.write(record._replace(header=header), None)
                self._shared.publish(RELABEL, place.start, key)
                self._known.seen += 1

    def report(self, numbers: Sequence[int]) -> None:
        if self.writable and not self.closed:
            self._shared.report(self._slot, numbers)

    # Pins

    def pin(self, key: int) -> None:
        if self.writable:
            with self._turn:
                self._shared.pin(key)

    def unpin(self, key: int) -> None:
        if self.writable and not self.closed:
            with self._turn:
                self._shared.unpin(key)

    def may_go(self, key: int) -> bool:
        self._check_open()
        if not self.writable or self._shared.pinned(key):
            return False
        place = self._known.places.get(key)
        return place is None or not place.large or not in_use(self._path(key, place))

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
            with self._turn:
                self._data.sync()
                self._write_index()

    def _write_index(self) -> None:
        places = self._known.places.values()
        path = self.path / "index"
        with contextlib.suppress(DamagedError), self._room.for_index(path) as allowed:
            if allowed:
                write_index(path, map(self._record, places), self._shared.generation, self.salt)

    def _record(self, place: Place) -> DiskRecord:
        record = self._data.record(place.start)
        if record is None:  # Looking through the data file will find out what there is.
            raise DamagedError(f"{self.path}: no record at byte {place.start:,} of the data file")
        return record

    def _close(self) -> None:
        if self._owner.is_here:
            with self._turn.alone():
                if self.writable:
                    self._follow()
                    self._remove_lingering()
                    self._write_index()
                    self._shared.leave(self._slot, os.getpid())
        self._shared.close()
        self._data.close()
        self._lock.close()

    def _keys(self) -> list[int]:
        self._follow()
        return list(self._known.places)

    def __len__(self) -> int:
        self._check_open()
        self._follow()
        return len(self._known.places)

    def _has(self, key: int) -> bool:
        self._follow()
        return key in self._known.places

    def _check_open(self) -> None:
        if self.closed:
            raise StoreError(f"{self.path} was closed here; open it again.")
        self._owner.check()


class ExclusiveLock:
    """While it lasts, only this process changes the store, and knows all that others changed."""

    __slots__ = ("_tier",)

    def __init__(self, tier: DiskTier) -> None:
        self._tier = tier

    def __enter__(self) -> None:
        tier = self._tier
        tier._check_open()
        if tier._lock.acquire():
            if tier.writable and tier._shared.intent:
                finish_intent(tier._shared, tier._data)
            tier._follow()

    def __exit__(self, *error: object) -> None:
        self._tier._lock.release()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """The same, but nothing is learnt."""
        self._tier._lock.acquire()
        try:
            yield
        finally:
            self._tier._lock.release()

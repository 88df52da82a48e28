"""The disk tier: payloads in a data file or in files of their own, shared by processes."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from xxhash import xxh3_64_intdigest

from transom.checks import whole_number
from transom.errors import StoreError
from transom.memory.extents import Extents, aligned
from transom.memory.tiers.base import News, Payload, Tier, as_payload
from transom.memory.tiers.disk.blockfile import (
    DamagedError,
    file_size,
    files,
    in_use,
    map_file,
    on_disk,
    write_file,
)
from transom.memory.tiers.disk.datafile import FIRST, DataFile
from transom.memory.tiers.disk.index import index_file_size, item_size, load_index, write_index
from transom.memory.tiers.disk.lock import FolderLock
from transom.memory.tiers.disk.look import known_capacity
from transom.memory.tiers.disk.record import HEADER, LONGEST_LABEL, Place, Record
from transom.memory.tiers.disk.shared import (
    ADD,
    CAPACITY,
    DROP,
    GENERATION,
    INDEX,
    PEAK,
    RELABEL,
    SALT,
    USED,
    Change,
    Shared,
    ring_size,
)

__all__ = ["DiskTier"]

LARGE = 1 << 20  # bytes from which on a payload has a file of its own
STEPS = 64  # parts of the capacity by which the data file grows, within:
SMALLEST_STEP, LARGEST_STEP = 64 << 10, 64 << 20
PAGE = 4096


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
        self.path = Path(path).expanduser()
        if capacity is None:
            capacity = known_capacity(self.path)
        self.capacity = whole_number("DiskTier", "capacity", capacity, 1, unit="bytes")
        self.failures = 0
        self._places: dict[int, Place] = {}
        self._items = 0  # bytes they take in the index
        self._free = Extents()
        self._news: list[News] = []
        self._lingering: list[Path] = []  # files to be deleted once that can be
        self._closed = False
        self._slot = -1
        self._turn = Turn(self)
        step = min(LARGEST_STEP, max(SMALLEST_STEP, self.capacity // STEPS))
        self._step = -(-step // PAGE) * PAGE
        try:
            self._open()
        except OSError as error:
            raise StoreError(
                f"cannot use {self.path} as a store of contexts: {error.strerror or error}; "
                "expected a folder that can be written to, or an existing store, on a disk with "
                "room."
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
        alone = self.writable and self._settle()
        self.salt = self._data.salt
        self._load()
        if self.writable:
            self._remove_orphans()
        if alone:
            self._trim()
        if self.writable:
            self._slot = self._shared.join()

    def _settle(self) -> bool:
        """Put right what killed processes left; make what is not there yet; whether alone."""
        shared, data = self._shared, self._data
        if not data.salt:
            data.write_salt(shared.words[SALT] or secrets.randbits(63) | 1)
        shared.words[SALT] = data.salt
        shared.words[CAPACITY] = self.capacity
        if data.size < FIRST:
            data.grow(FIRST)
        others = shared.bury()
        self._finish_intent()
        for stale in files(self._blocks, ".tmp"):
            self._remove_stale(stale)
        for stale in files(self.path, ".tmp"):
            self._remove_stale(stale)
        if not others:
            shared.unpin_all()
            shared.words[USED] = self._recount()
            shared.words[INDEX] = on_disk(self.path / "index")
            shared.words[PEAK] = shared.words[USED]
        return not others

    def _trim(self) -> None:
        """Give back the end of the data file where nothing is; there is no other process."""
        free = self._free.size_ending_at(self._reach) // PAGE * PAGE
        if free:
            self._free.take_at(self._reach - free, free)
            self._reach -= free
            before = self._data.used
            self._data.shrink(self._reach)
            self._charge(self._data.used - before)
        self._shared.words[PEAK] = self.used
        if self.used > self.capacity:
            raise StoreError(
                f"{self.path} takes {self.used:,} bytes, more than the {self.capacity:,} that it "
                "may; expected a larger capacity, or `transom memory clear` before."
            )

    def _remove_orphans(self) -> None:
        """Files that no record knows. Who writes one has the lock until a record does."""
        known = {self._path(key, place) for key, place in self._places.items() if place.large}
        for path in files(self._blocks, ".kv"):
            if path not in known:
                self._remove_file(path)

    def _remove_stale(self, path: Path) -> None:
        """A file that was being written, unless its process still is there."""
        pid = path.name.split(".")[-2]
        if not any(pid == str(other) for _, other, _ in self._shared.processes()):
            with contextlib.suppress(OSError):
                path.unlink()

    def _recount(self) -> int:
        """Bytes that the file system has set aside for the store."""
        blocks = sum(map(on_disk, files(self._blocks, "")))
        return sum(on_disk(path) for path in files(self.path, "") if path.is_file()) + blocks

    def _finish_intent(self) -> None:
        """A process was killed while it wrote a record or dropped it: then there is none."""
        start = self._shared.intent
        if FIRST <= start < self._data.size:
            self._data.erase(start)
        self._shared.intent = 0

    # What is where

    def _load(self) -> None:
        """Learn from the index, or from the data file, which records there are."""
        before, news = self._places, self._news
        self._places, self._news, self._items = {}, [], 0
        self._free = Extents()
        data, shared = self._data, self._shared
        self._reach = data.measure()
        if self._reach > FIRST:
            self._free.give(FIRST, self._reach - FIRST)
        index = load_index(self.path / "index", data.salt)
        changes = None if index is None else shared.changes(index[0])
        if index is not None and changes is not None:
            for record in index[1]:
                self._learn(record)
            self._apply(changes)
            self._seen = shared.generation
        else:
            self._look_through()
        labels = {item.key: item.label for item in self._news if item.what != "drop"}
        kept = {
            key
            for key, place in before.items()
            if key in self._places and self._places[key].generation == place.generation
        }
        drops = [News("drop", key, b"") for key in before if key not in kept]
        others = [
            News("relabel" if key in kept else "add", key, labels[key]) for key in self._places
        ]
        self._news = news + drops + others

    def _look_through(self) -> None:
        found: dict[int, Record] = {}
        latest = self._shared.generation
        for record in self._data.scan():
            latest = max(latest, record.generation + 1)
            other = found.get(record.key)
            if other is not None and other.generation > record.generation:
                record, other = other, record
            found[record.key] = record
            if other is not None and self.writable:
                self._data.erase(other.start)
        for record in sorted(found.values(), key=lambda record: record.generation):
            self._learn(record)
        if self.writable:
            self._shared.words[GENERATION] = latest
        self._seen = self._shared.generation

    def _learn(self, record: Record) -> None:
        place = record.place
        if place.start + place.length > self._reach:
            self._reached(self._data.measure())
        if record.key in self._places:
            self._unlearn(record.key)
        if self._free.take_at(place.start, place.length):
            self._places[record.key] = place
            self._items += item_size(len(record.label))
            self._news.append(News("add", record.key, record.label))

    def _unlearn(self, key: int) -> Place | None:
        place = self._places.pop(key, None)
        if place is not None:
            self._free.give(place.start, place.length)
            self._items -= item_size(place.payload - place.start - HEADER)
            self._news.append(News("drop", key, b""))
        return place

    def _reached(self, size: int) -> None:
        """The data file is that large by now."""
        if size > self._reach:
            self._free.give(self._reach, size - self._reach)
            self._reach = size

    def _follow(self) -> None:
        """Learn what other processes did since this was asked last."""
        if self._shared.generation == self._seen:
            return
        with self._turn.alone():
            changes = self._shared.changes(self._seen)
            if changes is None:
                self._load()
            else:
                self._apply(changes)
                self._seen = self._shared.generation

    def _apply(self, changes: list[Change]) -> None:
        for change in changes:
            known = self._places.get(change.key)
            if change.what == DROP:
                if known is not None and known.start == change.start:
                    self._unlearn(change.key)
                continue
            record = self._data.record(change.start)
            if record is None or record.key != change.key:
                continue  # It was dropped again, as a later change says.
            if change.what == ADD and record.generation == change.generation:
                self._learn(record)
            elif change.what == RELABEL and known is not None:
                self._news.append(News("relabel", change.key, record.label))

    @property
    def steady(self) -> bool:
        return self._lock.depth > 0

    def exclusive(self) -> Turn:
        return self._turn

    def news(self) -> list[News]:
        self._follow()
        if not self._news:
            return []
        news, self._news = self._news, []
        return news

    # Room

    @property
    def used(self) -> int:
        return 0 if self._closed else self._shared.words[USED]

    @property
    def peak(self) -> int:
        return self._shared.words[PEAK]

    @property
    def nbytes(self) -> int:
        each = sys.getsizeof(Place(0, 0, 0, 0, 0, 0, False)) + 16 + 5 * 32
        return sys.getsizeof(self._places) + each * len(self._places) + self._free.nbytes

    def fits(self, size: int) -> bool:
        own = file_size(size) if self.maps(size) else 0
        inline = 0 if self.maps(size) else size
        return aligned(HEADER + LONGEST_LABEL + inline) + own + self._fixed <= self.capacity

    def maps(self, size: int) -> bool:
        return size >= LARGE

    def _charge(self, size: int) -> None:
        words = self._shared.words
        words[USED] = max(0, words[USED] + size)
        words[PEAK] = max(words[PEAK], words[USED])

    def _room_for(self, size: int, items: int) -> bool:
        """Whether `size` bytes more may be taken, and then an index with `items` bytes more.

        A new index is written before the old one is deleted, so there must be room for both.
        """
        words = self._shared.words
        index, old = index_file_size(self._items + items), words[INDEX]
        return words[USED] - old + size + index + max(index, old) <= self.capacity

    def _take(self, length: int, items: int) -> int | None:
        """Room in the data file, which grows if need be; None when it may not or cannot."""
        if not self._room_for(0, items):
            return None
        start = self._free.take(length)
        if start is not None:
            return start
        size = self._data.measure()
        self._reached(size)
        start = self._free.take(length)
        if start is not None:
            return start
        missing = -(-(length - self._free.size_ending_at(size)) // PAGE) * PAGE
        for growth in (max(missing, self._step), missing):
            if self._room_for(growth, items):
                try:
                    self._charge(growth)
                    before = self._data.used
                    self._data.grow(size + growth)
                    self._charge(self._data.used - before - growth)
                except OSError:
                    self._charge(self._data.used - before - growth)
                    self.failures += 1
                    continue
                self._reached(size + growth)
                return self._free.take(length)
        return None

    # Payloads

    def store(self, key: int, payload: Any, label: bytes = b"") -> bool:
        source = as_payload(payload)
        if not self.writable or len(label) > LONGEST_LABEL:
            return False
        with self._turn:
            if self._lingering:
                self._remove_lingering()
            large = self.maps(source.nbytes)
            items = item_size(len(label))
            if key in self._places:
                return False  # another process was faster
            length = aligned(HEADER + len(label) + (0 if large else source.nbytes))
            start = self._take(length, items)
            if start is None:
                return False
            shared = self._shared
            check = 0 if large else xxh3_64_intdigest(source.data, key)
            record = Record(
                key, start, shared.words[GENERATION], source.nbytes, check, large, label
            )
            if large and not self._write_large(record, source, items):
                self._free.give(start, length)
                return False
            shared.intent = start
            try:
                self._data.write(record, None if large else source)
            except OSError:
                self.failures += 1
                self._data.erase(start)
                self._free.give(start, length)
                return False
            finally:
                shared.intent = 0
            shared.publish(ADD, start, key)
            self._seen += 1
            self._places[key] = record.place
            self._items += items
            return True

    def _write_large(self, record: Record, payload: Payload, items: int) -> bool:
        size = file_size(payload.nbytes)
        if not self._room_for(size, items):
            return False
        path = self._path(record.key, record.place)
        self._charge(size)
        try:
            write_file(path, record.key, payload)
        except OSError:
            self._charge(-size)
            self.failures += 1
            return False
        self._charge(on_disk(path) - size)
        return True

    def _path(self, key: int, place: Place) -> Path:
        return self._blocks / f"{key:016x}-{place.generation}.kv"

    def __getitem__(self, key: int) -> Payload:
        self._follow()
        place = self._places[key]
        payload = self._read(key, place)
        while payload is None:
            # Unless another process changed it meanwhile, it is damaged.
            self._follow()
            if self._places[key] == place:
                self._lose(key)
                raise KeyError(key)
            place = self._places[key]
            payload = self._read(key, place)
        return payload

    def _lose(self, key: int) -> None:
        self.corrupt += 1
        if self.writable:
            del self[key]
        else:
            self._unlearn(key)

    def _read(self, key: int, place: Place) -> Payload | None:
        if not place.large:
            return self._data.read(key, place)
        try:
            return map_file(self._path(key, place), key)
        except (OSError, DamagedError):
            return None

    def __delitem__(self, key: int) -> None:
        if not self.writable:
            raise StoreError(f"{self.path} is read-only, so entry {key} cannot be deleted.")
        with self._turn:
            place = self._places.pop(key)
            self._items -= item_size(place.payload - place.start - HEADER)
            self._shared.intent = place.start
            self._shared.publish(DROP, place.start, key)
            self._seen += 1
            self._data.erase(place.start)
            self._shared.intent = 0
            self._free.give(place.start, place.length)
            if place.large:
                self._remove_file(self._path(key, place))

    def _remove_file(self, path: Path) -> None:
        """Delete a file, as soon as nobody sees it; until then it stays charged."""
        size = on_disk(path)
        try:
            if in_use(path):
                self._lingering.append(path)
                return
            path.unlink(missing_ok=True)
        except OSError:
            self.failures += 1
            self._lingering.append(path)
            return
        self._charge(-size)

    def _remove_lingering(self) -> bool:
        """Try again to delete files; whether any is gone."""
        paths, self._lingering = self._lingering, []
        for path in paths:
            self._remove_file(path)
        return len(self._lingering) < len(paths)

    def size(self, key: int) -> int:
        return self._places[key].size

    def label(self, key: int) -> bytes:
        record = self._data.record(self._places[key].start)
        return b"" if record is None or record.key != key else record.label

    def relabel(self, key: int, label: bytes) -> None:
        with self._turn:
            place = self._places[key]
            record = self._data.record(place.start)
            if record is not None and record.key == key and len(record.label) == len(label):
                self._data.write(record._replace(label=label), None)
                self._shared.publish(RELABEL, place.start, key)
                self._seen += 1

    def report(self, numbers: Sequence[int]) -> None:
        if self.writable and not self._closed:
            self._shared.report(self._slot, numbers)

    # Pins

    def pin(self, key: int) -> None:
        if self.writable:
            with self._turn:
                self._shared.pin(key)

    def unpin(self, key: int) -> None:
        if self.writable and not self._closed:
            with self._turn:
                self._shared.unpin(key)

    def may_go(self, key: int) -> bool:
        if not self.writable or self._shared.pinned(key):
            return False
        place = self._places.get(key)
        return place is None or not place.large or not in_use(self._path(key, place))

    # The whole

    def verify(self) -> list[int]:
        damaged = []
        for key in list(self._places):
            try:
                self[key]
            except KeyError:
                damaged.append(key)
        return damaged

    def flush(self) -> None:
        if self.writable:
            with self._turn:
                self._data.sync()
                self._write_index()

    def _write_index(self) -> None:
        records = [self._data.record(place.start) for place in self._places.values()]
        if any(record is None for record in records):
            return  # Something is damaged, which looking through the data file finds out.
        path = self.path / "index"
        size, before = index_file_size(self._items), self._shared.words[INDEX]
        if self.used + size > self.capacity:
            return
        self._charge(size)
        try:
            write_index(path, (r for r in records if r), self._shared.generation, self.salt)
        except OSError:
            self.failures += 1
            self._charge(-size)
            return
        self._charge(on_disk(path) - size - before)
        self._shared.words[INDEX] = on_disk(path)

    def close(self) -> None:
        if self._closed:
            return
        with self._turn.alone():
            if self.writable:
                self._follow()
                self._remove_lingering()
                self._write_index()
                self._shared.leave(self._slot, os.getpid())
            self._closed = True
        self._shared.close()
        self._data.close()
        self._lock.close()

    def __iter__(self) -> Iterator[int]:
        self._follow()
        return iter(list(self._places))

    def __len__(self) -> int:
        self._follow()
        return len(self._places)

    def __contains__(self, key: object) -> bool:
        self._follow()
        return key in self._places


class Turn:
    """While it lasts, only this process changes the store, and knows all that others changed."""

    __slots__ = ("_tier",)

    def __init__(self, tier: DiskTier) -> None:
        self._tier = tier

    def __enter__(self) -> None:
        tier = self._tier
        if tier._closed:
            raise StoreError(f"{tier.path} was closed here; open it again.")
        if tier._lock.acquire():
            if tier.writable and tier._shared.intent:
                tier._finish_intent()
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

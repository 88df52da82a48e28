"""Where everything is in a store, as one process knows it."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from transom.memory.extents import Extents
from transom.memory.tiers.base import TierEvent
from transom.memory.tiers.disk.block_file import DamagedError
from transom.memory.tiers.disk.data_file import FIRST, DataFile
from transom.memory.tiers.disk.index import item_size, load_index
from transom.memory.tiers.disk.places import Places
from transom.memory.tiers.disk.record import HEADER, DiskRecord, Place
from transom.memory.tiers.disk.shared import ADDED, GENERATION, NEW_HEADER, REMOVED, Change, Shared

__all__ = ["Catalogue"]

KINDS: dict[int, Literal["add", "remove", "new header"]] = {
    ADDED: "add",
    REMOVED: "remove",
    NEW_HEADER: "new header",
}


class Catalogue:
    """Where every payload is, and which stretches of the data file are free.

    Attributes:
        places: where payloads are, by key.
        free: stretches of the data file without a record.
        reach: bytes of the data file that are known.
        items: bytes that the records take in an index.
        seen: how many changes of the store are known.
    """

    def __init__(self, data: DataFile, shared: Shared, index: Path, writable: bool) -> None:
        self._data = data
        self._shared = shared
        self._index = index
        self._writable = writable
        self.places = Places()
        self.free = Extents()
        self.reach = 0
        self.items = 0
        self.seen = 0
        # Changes by other processes that `news` has not returned yet: kinds and keys.
        self._kinds = bytearray()
        self._keys = array("Q")

    @property
    def nbytes(self) -> int:
        """Bytes of memory taken."""
        return self.places.nbytes + self.free.nbytes

    @property
    def growth(self) -> int:
        """Bytes of memory that it may take in addition when it grows next."""
        return self.places.growth + self.free.nbytes // 3

    def news(self) -> Iterable[TierEvent]:
        """What other processes changed since the last call."""
        kinds, keys = self._kinds, self._keys
        if not kinds:
            return ()
        self._kinds, self._keys = bytearray(), array("Q")
        return (TierEvent(KINDS[kind], key) for kind, key in zip(kinds, keys, strict=True))

    def _tell(self, kind: int, key: int) -> None:
        self._kinds.append(kind)
        self._keys.append(key)

    def load(self) -> None:
        """Learn which records there are from the index, or else from the data file."""
        before = self.places
        kinds, keys = self._kinds, self._keys
        try:
            loaded = self._load_index()
        except DamagedError:
            loaded = False
        if not loaded:
            self._forget_all()
            self._search_data_file()
        # Loading told every record as added. Tell only what differs from the places before.
        self._kinds, self._keys = kinds, keys
        there = self.places.by_generation()
        if not before:
            self._kinds += bytes([ADDED]) * len(there)
            self._keys.frombytes(there.tobytes())
            return
        kept = set()
        for key, place in before.items():
            now = self.places.get(key)
            if now is not None and now.generation == place.generation:
                kept.add(key)
            else:
                self._tell(REMOVED, key)
        for key in map(int, there):
            self._tell(NEW_HEADER if key in kept else ADDED, key)

    def _forget_all(self) -> None:
        self.places = Places()
        self.items = 0
        self.free = Extents()
        self._kinds, self._keys = bytearray(), array("Q")
        self.reach = self._data.measure()
        if self.reach > FIRST:
            self.free.give(FIRST, self.reach - FIRST)

    def _load_index(self) -> bool:
        """Learn from the index and the changes since; False where one of them is missing."""
        self._forget_all()
        index = load_index(self._index, self._data.salt)
        changes = None if index is None else self._shared.changes(index.generation)
        if index is None or changes is None:
            return False
        if (
            index.total * HEADER <= self._data.size
        ):  # Otherwise it is damaged, and a record will show it.
            self.places.reserve(index.total)
        for record in index.records:
            self.learn(record)
        self.apply(changes)
        self.seen = self._shared.generation
        return True

    def _search_data_file(self) -> None:
        latest = self._shared.generation
        for record in self._data.scan():
            latest = max(latest, record.generation + 1)
            other = self.places.get(record.key)
            older = None
            if other is not None:
                older = other if other.generation < record.generation else record.place
            if older is None or older is other:
                self.learn(record)
            if older is not None and self._writable:
                self._data.remove(older.start)
        if self._writable:
            self._shared.words[GENERATION] = latest
        self.seen = self._shared.generation

    def learn(self, record: DiskRecord) -> None:
        """Add a record that another process wrote, in place of the former one of its key."""
        place = record.place
        if place.start + place.length > self.reach:
            self.reached(self._data.measure())
        self.forget(record.key)
        if self.free.take_at(place.start, place.length):
            self.places.add(record.key, place)
            self.items += item_size(len(record.header))
            self._tell(ADDED, record.key)

    def forget(self, key: int) -> None:
        """Another process has removed the record of `key`, or it is damaged."""
        if self._forget(key) is not None:
            self._tell(REMOVED, key)

    def _forget(self, key: int) -> Place | None:
        place = self.places.pop(key)
        if place is not None:
            self.free.give(place.start, place.length)
            self.items -= item_size(place.payload - place.start - HEADER)
        return place

    def reached(self, size: int) -> None:
        """The data file has grown to `size` bytes."""
        if size > self.reach:
            self.free.give(self.reach, size - self.reach)
            self.reach = size

    def trim(self, page: int) -> int:
        """Forget the whole pages at the end without a record; how many bytes they are."""
        free = self.free.size_ending_at(self.reach) // page * page
        if free:
            self.reach -= free
            self.free.take_at(self.reach, free)
        return free

    def add(self, record: DiskRecord) -> None:
        """This process has written a record, in a place that it took."""
        self.seen += 1
        self.places.add(record.key, record.place)
        self.items += item_size(len(record.header))

    def forget_own(self, key: int) -> None:
        """This process has removed the record of `key`."""
        self.seen += 1
        self._forget(key)

    def apply(self, changes: list[Change]) -> None:
        """Learn what other processes did."""
        for change in changes:
            known = self.places.get(change.key)
            if change.what == REMOVED:
                if known is not None and known.start == change.start:
                    self.forget(change.key)
                continue
            record = self._data.record(change.start)
            if record is None or record.key != change.key:
                continue  # A later change says that it was removed.
            if change.what == ADDED and record.generation == change.generation:
                self.learn(record)
            elif change.what == NEW_HEADER and known is not None:
                self._tell(NEW_HEADER, change.key)

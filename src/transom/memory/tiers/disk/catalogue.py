"""What is where in a store, as one process knows it."""

from __future__ import annotations

import sys
from pathlib import Path

from transom.memory.extents import Extents
from transom.memory.tiers.base import News
from transom.memory.tiers.disk.datafile import FIRST, DataFile
from transom.memory.tiers.disk.index import item_size, load_index
from transom.memory.tiers.disk.record import HEADER, Place, Record
from transom.memory.tiers.disk.shared import ADD, DROP, GENERATION, RELABEL, Change, Shared

__all__ = ["Catalogue"]


class Catalogue:
    """Where every payload is, and which stretches of the data file are free.

    Attributes:
        places: where payloads are, by key.
        free: stretches of the data file that no record is in.
        reach: bytes of the data file, as far as is known.
        items: bytes that the records take in an index.
        seen: how many changes were learnt.
        news: what was learnt from others, and not yet told.
    """

    def __init__(self, data: DataFile, shared: Shared, index: Path, writable: bool) -> None:
        self._data = data
        self._shared = shared
        self._index = index
        self._writable = writable
        self.places: dict[int, Place] = {}
        self.free = Extents()
        self.reach = 0
        self.items = 0
        self.seen = 0
        self.news: list[News] = []

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes."""
        each = sys.getsizeof(Place(0, 0, 0, 0, 0, 0, False)) + 5 * 32
        return sys.getsizeof(self.places) + each * len(self.places) + self.free.nbytes

    def load(self) -> None:
        """Learn from the index, or from the data file, which records there are."""
        before, news = self.places, self.news
        self.places, self.news, self.items = {}, [], 0
        self.free = Extents()
        data, shared = self._data, self._shared
        self.reach = data.measure()
        if self.reach > FIRST:
            self.free.give(FIRST, self.reach - FIRST)
        index = load_index(self._index, data.salt)
        changes = None if index is None else shared.changes(index[0])
        if index is not None and changes is not None:
            for record in index[1]:
                self.learn(record)
            self.apply(changes)
            self.seen = shared.generation
        else:
            self._look_through()
        labels = {item.key: item.label for item in self.news if item.what != "drop"}
        kept = {
            key
            for key, place in before.items()
            if key in self.places and self.places[key].generation == place.generation
        }
        drops = [News("drop", key, b"") for key in before if key not in kept]
        others = [
            News("relabel" if key in kept else "add", key, labels[key]) for key in self.places
        ]
        self.news = news + drops + others

    def _look_through(self) -> None:
        found: dict[int, Record] = {}
        latest = self._shared.generation
        for record in self._data.scan():
            latest = max(latest, record.generation + 1)
            other = found.get(record.key)
            if other is not None and other.generation > record.generation:
                record, other = other, record
            found[record.key] = record
            if other is not None and self._writable:
                self._data.erase(other.start)
        for record in sorted(found.values(), key=lambda record: record.generation):
            self.learn(record)
        if self._writable:
            self._shared.words[GENERATION] = latest
        self.seen = self._shared.generation

    def learn(self, record: Record) -> None:
        """There is this record, in place of another one of its key."""
        place = record.place
        if place.start + place.length > self.reach:
            self.reached(self._data.measure())
        if record.key in self.places:
            self.unlearn(record.key)
        if self.free.take_at(place.start, place.length):
            self.places[record.key] = place
            self.items += item_size(len(record.label))
            self.news.append(News("add", record.key, record.label))

    def unlearn(self, key: int) -> None:
        """There is no record of `key` any more."""
        place = self.places.pop(key, None)
        if place is not None:
            self.free.give(place.start, place.length)
            self.items -= item_size(place.payload - place.start - HEADER)
            self.news.append(News("drop", key, b""))

    def reached(self, size: int) -> None:
        """The data file is that large by now."""
        if size > self.reach:
            self.free.give(self.reach, size - self.reach)
            self.reach = size

    def trim(self, page: int) -> int:
        """Forget the whole pages at the end that no record is in; how many bytes they are."""
        free = self.free.size_ending_at(self.reach) // page * page
        if free:
            self.reach -= free
            self.free.take_at(self.reach, free)
        return free

    def add(self, record: Record) -> None:
        """This process has stored a record, in a place that it took."""
        self.seen += 1
        self.places[record.key] = record.place
        self.items += item_size(len(record.label))

    def drop(self, key: int) -> Place:
        """This process has dropped a record."""
        self.seen += 1
        place = self.places.pop(key)
        self.items -= item_size(place.payload - place.start - HEADER)
        self.free.give(place.start, place.length)
        return place

    def apply(self, changes: list[Change]) -> None:
        """Learn what other processes did."""
        for change in changes:
            known = self.places.get(change.key)
            if change.what == DROP:
                if known is not None and known.start == change.start:
                    self.unlearn(change.key)
                continue
            record = self._data.record(change.start)
            if record is None or record.key != change.key:
                continue  # It was dropped again, as a later change says.
            if change.what == ADD and record.generation == change.generation:
                self.learn(record)
            elif change.what == RELABEL and known is not None:
                self.news.append(News("relabel", change.key, record.label))

"""Numbers, pins and the latest changes of a store, in a file that all its processes map."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

__all__ = ["ADDED", "NEW_HEADER", "REMOVED", "Change", "Shared", "ring_size"]

MAGIC = int.from_bytes(b"transomS", "little")
VERSION = 1
# Words of 64 bits
HEAD, LAYOUT, GENERATION, INTENT, USED, PEAK, SALT, PINS, RING = range(9)
INTENT_CHECK, CAPACITY, INDEX = 9, 10, 11
PROCESSES, SLOTS, SLOT = 64, 64, 16  # first word, how many, words each: pid, born, a report
PINNED, MOST_PINS, PIN = 1088, 256, 2  # key, pid
CHANGES, CHANGE = 2048, 4  # generation, what and where, key, checksum
WHERE = (1 << 60) - 1

ADDED, REMOVED, NEW_HEADER = 1, 2, 3


class Change(NamedTuple):
    """A change of the store.

    Attributes:
        generation: its number.
        what: ADDED, REMOVED or NEW_HEADER.
        start: where in the data file the record is.
        key: of the entry.
    """

    generation: int
    what: int
    start: int
    key: int


def ring_size(capacity: int) -> int:
    """How many changes are kept for a store of `capacity` bytes."""
    return 1 << max(6, min(16, (capacity // 8192).bit_length()))


class Shared:
    """Numbers of a store in a file that every process maps.

    Only the process that holds the lock changes them. A process that is killed half-way leaves a
    number that is a little off, or an `intent`; the next one puts that right. Readers never rely on
    two numbers at once.

    Attributes:
        words: the file as words of 64 bits.
        ring: how many of the latest changes are kept.
        fresh: whether the file was made now, because there was no usable one.
    """

    def __init__(self, path: Path, writable: bool, ring: int) -> None:
        flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
        self._file = os.open(path, flags, 0o600)
        try:
            self.fresh = not self._usable()
            if self.fresh:
                if not writable:
                    raise OSError(30, self._why_not(), str(path))
                self._make(8 * (CHANGES + CHANGE * ring))
            protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
            self._map = mmap.mmap(self._file, os.fstat(self._file).st_size, prot=protection)
        except BaseException:
            os.close(self._file)
            raise
        self.words = memoryview(self._map).cast("Q")
        if self.fresh:
            self.words[LAYOUT] = VERSION
            self.words[RING] = ring
            self.words[HEAD] = MAGIC
        self.ring = self.words[RING]

    def _usable(self) -> bool:
        size = os.fstat(self._file).st_size
        if size < 8 * CHANGES:
            return False
        head, layout = struct.unpack("<QQ", os.pread(self._file, 16, 0))
        ring = struct.unpack("<Q", os.pread(self._file, 8, 8 * RING))[0]
        return bool(head == MAGIC and layout == VERSION and 8 * (CHANGES + CHANGE * ring) == size)

    def _why_not(self) -> str:
        head = os.pread(self._file, 16, 0)
        if head[:8] == struct.pack("<Q", MAGIC) and head[8:] != struct.pack("<Q", VERSION):
            return "it is of another version of transom"
        return "the store was never written"

    def _make(self, size: int) -> None:
        # In place: other processes may have this file open.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file, 0, size)
        else:
            os.ftruncate(self._file, size)
        if os.fstat(self._file).st_size != size:
            os.ftruncate(self._file, size)
        os.pwrite(self._file, bytes(size), 0)

    @property
    def used(self) -> int:
        """Bytes that the file system has allocated for the file."""
        return os.fstat(self._file).st_blocks * 512

    @property
    def generation(self) -> int:
        """How many changes there were."""
        return self.words[GENERATION]

    def publish(self, what: int, start: int, key: int) -> None:
        """Tell other processes a change."""
        generation = self.words[GENERATION]
        fields = struct.pack("<QQQ", generation, what << 60 | start, key)
        at = 8 * (CHANGES + CHANGE * (generation % self.ring))
        check = struct.pack("<Q", xxh3_64_intdigest(fields))
        self._map[at : at + 32] = fields + check
        self.words[GENERATION] = generation + 1

    def changes(self, since: int) -> list[Change] | None:
        """The changes from number `since` on; None when not all are kept any more."""
        if not 0 <= self.generation - since <= self.ring:
            return None
        found = []
        for generation in range(since, self.generation):
            at = 8 * (CHANGES + CHANGE * (generation % self.ring))
            fields, check = self._map[at : at + 24], self._map[at + 24 : at + 32]
            number, place, key = struct.unpack("<QQQ", fields)
            if number != generation or struct.pack("<Q", xxh3_64_intdigest(fields)) != check:
                return None
            found.append(Change(number, place >> 60, place & WHERE, key))
        return found

    @property
    def intent(self) -> int:
        """Where a record is being written or removed; 0 for nowhere."""
        start = self.words[INTENT]
        return start if self.words[INTENT_CHECK] == start ^ MAGIC else 0

    @intent.setter
    def intent(self, start: int) -> None:
        self.words[INTENT_CHECK] = start ^ MAGIC
        self.words[INTENT] = start

    # Processes

    def processes(self) -> Iterator[tuple[int, int, int]]:
        """`(slot, pid, born)` of each process that joined, also of killed ones."""
        for slot in range(SLOTS):
            at = PROCESSES + SLOT * slot
            if self.words[at]:
                yield slot, self.words[at], self.words[at + 1]

    def join(self) -> int:
        """Become one of the processes; its slot, -1 when there are too many."""
        taken = {slot for slot, _, _ in self.processes()}
        for slot in range(SLOTS):
            if slot not in taken:
                at = PROCESSES + SLOT * slot
                self.words[at + 1] = born(os.getpid())
                self.words[at] = os.getpid()
                return slot
        return -1

    def forget_process(self, slot: int, pid: int) -> None:
        """Forget a process and its pins."""
        if slot >= 0:
            at = PROCESSES + SLOT * slot
            for word in range(at, at + SLOT):
                self.words[word] = 0
        if self.words[PINS]:
            for at in range(PINNED, PINNED + PIN * MOST_PINS, PIN):
                if self.words[at + 1] == pid:
                    self._unpin(at)

    def report(self, slot: int, numbers: Sequence[int]) -> None:
        """Tell other processes about the one in `slot`."""
        if slot >= 0:
            at = PROCESSES + SLOT * slot + 2
            for place, number in enumerate(numbers[: SLOT - 2], at):
                self.words[place] = number

    def reports(self) -> list[tuple[int, list[int]]]:
        """The last report of each process that is alive: its pid, and the numbers."""
        found = []
        for slot, pid, started in self.processes():
            at = PROCESSES + SLOT * slot
            if born(pid) == started:
                found.append((pid, [self.words[word] for word in range(at + 2, at + SLOT)]))
        return found

    def forget_dead_processes(self) -> int:
        """Forget processes that are not alive, and their pins; how many are left."""
        left = 0
        for slot, pid, started in list(self.processes()):
            if born(pid) == started:
                left += 1
            else:
                self.forget_process(slot, pid)
        return left

    def unpin_all(self) -> None:
        """Forget all pins."""
        for at in range(PINNED, PINNED + PIN * MOST_PINS):
            self.words[at] = 0
        self.words[PINS] = 0

    # Pins

    def pin(self, key: int) -> bool:
        """Tell other processes to keep `key`; False when there are too many pins."""
        for at in range(PINNED, PINNED + PIN * MOST_PINS, PIN):
            if not self.words[at + 1]:
                self.words[at], self.words[at + 1] = key, os.getpid()
                self.words[PINS] += 1
                return True
        return False

    def unpin(self, key: int) -> None:
        """Take one pin of this process off `key`."""
        for at in range(PINNED, PINNED + PIN * MOST_PINS, PIN):
            if self.words[at] == key and self.words[at + 1] == os.getpid():
                self._unpin(at)
                return

    def pinned(self, key: int) -> bool:
        """Whether a process has pinned `key`."""
        if not self.words[PINS]:
            return False
        words = self.words
        return any(
            words[at] == key and words[at + 1]
            for at in range(PINNED, PINNED + PIN * MOST_PINS, PIN)
        )

    def _unpin(self, at: int) -> None:
        self.words[at] = self.words[at + 1] = 0
        self.words[PINS] = max(0, self.words[PINS] - 1)

    def close(self) -> None:
        """Close the file."""
        self.words.release()
        self._map.close()
        os.close(self._file)


def born(pid: int) -> int:
    """When process `pid` was started, in ticks of the system; 0 when it is not alive."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
    except FileNotFoundError:
        return 0 if os.path.isdir("/proc/self") else _alive(pid)


def _alive(pid: int) -> int:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return 0
    except PermissionError:
        pass
    return 1

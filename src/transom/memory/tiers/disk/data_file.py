"""The data file: small payloads as records, which can be found again without an index."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from xxhash import xxh3_64_intdigest

from transom.memory.extents import ALIGNMENT
from transom.memory.tiers.base import LONGEST_HEADER, Payload
from transom.memory.tiers.disk.block_file import on_disk
from transom.memory.tiers.disk.record import HEADER, MAGIC, DiskRecord, Place

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["DataFile"]

SUPER = struct.Struct("<8sIIQ")  # magic, version, 0, salt
SUPER_MAGIC = b"transomD"
VERSION = 1
FIRST = 4096  # where records start
CHUNK = 1 << 20


class DataFile:
    """Records in one file, whose room is allocated before it is used.

    Attributes:
        path: the file.
        size: bytes of it.
        salt: the number that header checksums are salted with.
    """

    def __init__(self, path: Path, writable: bool) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
        self._file = os.open(path, flags, 0o600)
        self.size = os.fstat(self._file).st_size
        self.salt = self._read_salt()

    def _read_salt(self) -> int:
        data = os.pread(self._file, SUPER.size + 8, 0)
        if len(data) == SUPER.size + 8:
            magic, version, _, salt = SUPER.unpack_from(data)
            expected = struct.unpack_from("<Q", data, SUPER.size)[0]
            if (magic, version, xxh3_64_intdigest(data[: SUPER.size])) == (
                SUPER_MAGIC,
                VERSION,
                expected,
            ):
                return int(salt)
        return 0

    def write_salt(self, salt: int) -> None:
        """Write the head of the file, with this salt."""
        head = SUPER.pack(SUPER_MAGIC, VERSION, 0, salt)
        os.pwrite(self._file, head + struct.pack("<Q", xxh3_64_intdigest(head)), 0)
        self.salt = salt

    def grow(self, size: int) -> None:
        """Allocate room up to `size` bytes.

        Raises:
            OSError: when the disk has too little; the file is as it was.
        """
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file, self.size, size - self.size)
        else:
            zeros = bytes(CHUNK)
            for at in range(self.size, size, CHUNK):
                os.pwrite(self._file, zeros[: size - at], at)
        self.size = size

    def shrink(self, size: int) -> None:
        """Cut the file at `size` bytes; only while no other process has it open."""
        os.ftruncate(self._file, size)
        self.size = size

    def measure(self) -> int:
        """The size of the file now, after what other processes did."""
        self.size = os.fstat(self._file).st_size
        return self.size

    @property
    def used(self) -> int:
        """Bytes that the file system has allocated."""
        return os.fstat(self._file).st_blocks * 512

    def write(self, record: DiskRecord, payload: Payload | None) -> None:
        """Write a record, with its payload or, for a new header, without."""
        head = record.pack(self.salt)
        parts: list[Buffer] = (
            [head] if payload is None or not payload.nbytes else [head, payload.data]
        )
        total = len(head) + (0 if payload is None else payload.nbytes)
        written = os.pwritev(self._file, parts, record.start)
        if written != total:
            rest = b"".join(parts)[written:]
            while rest:
                done = os.pwrite(self._file, rest, record.start + total - len(rest))
                rest = rest[done:]

    def remove(self, start: int) -> None:
        """Overwrite the start of a record, so that it is not found any more."""
        os.pwrite(self._file, bytes(len(MAGIC)), start)

    def read(self, key: int, place: Place) -> Payload | None:
        """A copy of the payload, `(bytes,)` uint8; None when its checksum is wrong."""
        payload: Payload = np.empty(place.size, dtype=np.uint8)
        if place.size:
            if os.preadv(self._file, [payload.data], place.payload) != place.size:
                return None
            if xxh3_64_intdigest(payload.data, key) != place.check:
                return None
        payload.setflags(write=False)
        return payload

    def record(self, start: int) -> DiskRecord | None:
        """The record that starts at `start`; None without one."""
        data = os.pread(self._file, HEADER + 512, start)
        found = DiskRecord.unpack(data, start, self.salt)
        if found is None and data[:8] == MAGIC:
            data = os.pread(self._file, HEADER + LONGEST_HEADER, start)
            found = DiskRecord.unpack(data, start, self.salt)
        return found

    def scan(self) -> Iterator[DiskRecord]:
        """Every record, found by searching all places where one may start."""
        at = FIRST
        while at < self.size:
            found = self.record(at)
            length = 0 if found is None else found.place.length
            if found is not None and at + length <= self.size:
                yield found
                at += length
            else:
                at = self._next(at + ALIGNMENT)

    def _next(self, at: int) -> int:
        """The next place at or after `at` where a record may start."""
        while at < self.size:
            chunk = os.pread(self._file, CHUNK, at)
            if not chunk:
                break
            place = chunk.find(MAGIC)
            while place >= 0 and place % ALIGNMENT:
                place = chunk.find(MAGIC, place + 1)
            if place >= 0:
                return at + place
            at += CHUNK
        return self.size

    def sync(self) -> None:
        """Make what was written survive a loss of power."""
        os.fdatasync(self._file) if hasattr(os, "fdatasync") else os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):
            os.close(self._file)

    def __repr__(self) -> str:
        return f"<DataFile {self.path}: {self.size:,} bytes, {on_disk(self.path):,} allocated>"

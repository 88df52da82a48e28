"""One record of the data file: a head with checksums, the header of the entry, the payload."""

from __future__ import annotations

import struct
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from transom.memory.extents import aligned

__all__ = ["HEADER", "MAGIC", "DiskRecord", "Place"]

MAGIC = b"\xf7transom"
# magic, bytes of the header, flags, 0, key, generation, bytes and checksum of the payload
HEAD = struct.Struct("<8sHHIQQQQ")
HEADER = HEAD.size + 8  # bytes of the head, with a checksum of itself and the header
LARGE = 1


class Place(NamedTuple):
    """Where a payload is.

    Attributes:
        start: where in the data file its record is.
        length: bytes that the record takes there.
        payload: where in the data file the payload starts.
        size: bytes of the payload.
        check: its checksum, salted with the key.
        generation: the number of the change that stored it.
        large: whether it has a file of its own.
    """

    start: int
    length: int
    payload: int
    size: int
    check: int
    generation: int
    large: bool


class DiskRecord(NamedTuple):
    """A record without its payload.

    Attributes:
        key: what it is stored under.
        start: where in the data file it is.
        generation: the number of the change that stored it.
        size: bytes of the payload.
        check: its checksum, salted with the key; 0 for one in a file of its own.
        large: whether it has a file of its own.
        header: what is stored beside the payload.
    """

    key: int
    start: int
    generation: int
    size: int
    check: int
    large: bool
    header: bytes

    @property
    def place(self) -> Place:
        """What is needed to read the payload."""
        inline = 0 if self.large else self.size
        return Place(
            self.start,
            aligned(HEADER + len(self.header) + inline),
            self.start + HEADER + len(self.header),
            self.size,
            self.check,
            self.generation,
            self.large,
        )

    def pack(self, salt: int) -> bytes:
        """The head and the header as bytes."""
        head = HEAD.pack(
            MAGIC,
            len(self.header),
            LARGE * self.large,
            0,
            self.key,
            self.generation,
            self.size,
            self.check,
        )
        check = xxh3_64_intdigest(head + self.header, salt ^ self.start)
        return head + struct.pack("<Q", check) + self.header

    @classmethod
    def unpack(cls, data: bytes, start: int, salt: int) -> DiskRecord | None:
        """The record that `data` starts with; None without one.

        The checksum is salted with a secret number of the store and with the place, so that nothing
        inside a payload passes for a record.
        """
        if len(data) < HEADER or data[:8] != MAGIC:
            return None
        _, header_size, flags, _, key, generation, size, check = HEAD.unpack_from(data)
        header = bytes(data[HEADER : HEADER + header_size])
        expected = struct.unpack_from("<Q", data, HEAD.size)[0]
        if len(header) != header_size:
            return None
        if xxh3_64_intdigest(bytes(data[: HEAD.size]) + header, salt ^ start) != expected:
            return None
        return cls(key, start, generation, size, check, bool(flags & LARGE), header)

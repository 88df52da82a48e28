"""What stands before a payload on the server: which version of it this is, and its checksum."""

from __future__ import annotations

import secrets
import struct
import time
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from transom.memory.tiers.base import Payload

__all__ = ["HEAD_BYTES", "Head", "Versions", "checksum"]

# magic, version, bytes and checksum of the payload, bytes of the label, chunks
FIELDS = struct.Struct("<8sQQQII")
HEAD_BYTES = FIELDS.size + 8  # with a checksum of these, salted with the key
MAGIC = b"transomV"
AHEAD = 24  # bits by which a version may be ahead of the clock, some thousandths of a second
LARGEST = 1 << 63  # no version that a clock made is as large
CHANCE = 12  # bits of a version that are left to chance; the others are microseconds since 1970


class Head(NamedTuple):
    """A payload without its bytes.

    Attributes:
        version: which of all payloads that were ever stored under the key it is.
        size: bytes of the payload.
        check: checksum of the label and the payload.
        label: bytes of the label.
        chunks: into how many further keys the payload is divided; 0 when it follows the label.
    """

    version: int
    size: int
    check: int
    header: int
    chunks: int

    def pack(self, key: int) -> bytes:
        """The head as bytes."""
        fields = FIELDS.pack(MAGIC, *self)
        return fields + struct.pack("<Q", xxh3_64_intdigest(fields, key))

    @classmethod
    def unpack(cls, data: bytes, key: int) -> Head | None:
        """The head that `data` starts with; None when that is none of `key`, or damaged."""
        if len(data) < HEAD_BYTES:
            return None
        magic, *fields = FIELDS.unpack_from(data)
        check = struct.unpack_from("<Q", data, FIELDS.size)[0]
        if magic != MAGIC or check != xxh3_64_intdigest(data[: FIELDS.size], key):
            return None
        return cls(*fields)


class Versions:
    """Numbers of which no two are the same, on whichever machine, and that grow with the clock.

    They owe nothing to the server, so that nothing repeats when it forgets what it was told. New
    ones are above all that were seen here (Lamport, "Time, clocks, and the ordering of events in a
    distributed system", 1978), so that a clock that is ahead does not count for more than others.
    """

    def __init__(self) -> None:
        self._latest = 0

    def seen(self, version: int) -> None:
        """Somebody has made this one."""
        if version < LARGEST:
            self._latest = max(self._latest, version)

    def next(self) -> int:
        """A new one, above all that were made or seen here."""
        now = time.time_ns() // 1000 << CHANCE | secrets.randbits(CHANCE)
        # Where clocks are behind, two may follow the same one: they are to differ nevertheless.
        later = self._latest + 1 + secrets.randbits(AHEAD)
        self._latest = now if now > self._latest else later
        return self._latest


def checksum(payload: Payload, header: bytes, key: int) -> int:
    """A checksum of both, salted with the key."""
    return xxh3_64_intdigest(payload.data, xxh3_64_intdigest(header, key))

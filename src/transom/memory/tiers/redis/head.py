"""The head of a payload on the server: its version, sizes and checksum."""

from __future__ import annotations

import secrets
import struct
import time
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from transom.memory.tiers.base import Payload

__all__ = ["HEAD_BYTES", "Head", "Versions", "checksum"]

# magic, version, bytes and checksum of the payload, bytes of the header, chunks
FIELDS = struct.Struct("<8sQQQII")
HEAD_BYTES = FIELDS.size + 8  # with a checksum of these, salted with the key
MAGIC = b"transomV"
AHEAD = 24  # bits: the next version is up to 4 ms ahead of one that is ahead of the clock
LARGEST = 1 << 63  # above every version that a clock made
CHANCE = 12  # random bits of a version; the others are microseconds since 1970


class Head(NamedTuple):
    """A payload without its bytes.

    Attributes:
        version: which of all payloads ever stored under the key it is.
        size: bytes of the payload.
        check: checksum of the header and the payload.
        header: bytes of the header.
        chunks: how many further keys hold the payload; 0 when it follows the header.
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
        """The head that `data` starts with; None when it is damaged, or that of another key."""
        if len(data) < HEAD_BYTES:
            return None
        magic, *fields = FIELDS.unpack_from(data)
        check = struct.unpack_from("<Q", data, FIELDS.size)[0]
        if magic != MAGIC or check != xxh3_64_intdigest(data[: FIELDS.size], key):
            return None
        return cls(*fields)


class Versions:
    """Versions: numbers that grow with the clock and never repeat, on any machine.

    They do not depend on the server, so none repeats when the server forgets something. A new one
    is above all that were seen here (Lamport, "Time, clocks, and the ordering of events in a
    distributed system", 1978), so that a machine whose clock is ahead does not win for ever.
    """

    def __init__(self) -> None:
        self._latest = 0

    def seen(self, version: int) -> None:
        """Note a version that another machine made."""
        if version < LARGEST:
            self._latest = max(self._latest, version)

    def next(self) -> int:
        """A new version, above all that were made or seen here."""
        now = time.time_ns() // 1000 << CHANCE | secrets.randbits(CHANCE)
        # Two machines whose clocks are behind may follow the same version; chance tells them apart.
        later = self._latest + 1 + secrets.randbits(AHEAD)
        self._latest = now if now > self._latest else later
        return self._latest


def checksum(payload: Payload, header: bytes, key: int) -> int:
    """A checksum of the header and the payload, salted with the key."""
    return xxh3_64_intdigest(payload.data, xxh3_64_intdigest(header, key))

"""Payloads on a server: a head, then the bytes, or further keys with a chunk of them each."""

from __future__ import annotations

import contextlib
import logging
from typing import NamedTuple

import numpy as np

from transom.memory.rate_limited_log import RateLimitedLog
from transom.memory.tiers.payload import Payload
from transom.memory.tiers.redis.head import HEAD_BYTES, Head, Versions, checksum
from transom.memory.tiers.redis.server import Client, Server
from transom.memory.tiers.redis.sizes import Sizes

__all__ = ["CHUNK", "Found", "StoredPayloads", "bytes_taken"]

CHUNK = (1 << 20) - 4096  # bytes per key: the server copies values, and a large one holds up others
AT_ONCE = 8  # chunks asked for at a time
OVERHEAD = 256  # bytes the server takes for a key, about
TRIES = 3  # to read what others replace meanwhile

# Deletes what starts as given, and nothing that was stored later.
DELETE_VERSION = """
if redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""

logger = logging.getLogger("transom.memory.redis")


class Found(NamedTuple):
    """What the server holds under a key.

    Attributes:
        version: which of all payloads ever stored under the key it is.
        header: what was stored with it.
        payload: `(bytes,)` uint8, read-only.
    """

    version: int
    header: bytes
    payload: Payload


class StoredPayloads:
    """Payloads by key and version on a server.

    Calls raise what the client raises; whoever calls them asks through `Server.ask`.

    Args:
        server: where the payloads are.
        prefix: what keys on the server start with.
        ttl: milliseconds after which the server forgets a payload.
        capacity: most bytes that may be taken.

    Attributes:
        corrupt: how many payloads were found damaged.
        peak: most bytes that were taken, as far as was heard.
        sizes: what is charged for them.
        versions: makes the versions of new ones.
    """

    def __init__(self, server: Server, prefix: str, ttl: int, capacity: int) -> None:
        self.corrupt = 0
        self.peak = 0
        self.versions = Versions()
        self.sizes = Sizes(server.client, prefix, capacity, self._size_there)
        self._server = server
        self._client: Client = server.client
        self._prefix = prefix
        self._ttl = ttl
        self._damage = RateLimitedLog(
            logger, logging.WARNING, "%d damaged payloads on the Redis server were deleted"
        )

    def head(self, key: int) -> Head | None:
        """The head of a payload; None when none is held."""
        return self._unpacked(self._client.getrange(self._name(key), 0, HEAD_BYTES - 1), key)

    def has(self, key: int) -> bool:
        """Whether a payload is held."""
        return bool(self._client.exists(self._name(key)))

    def put(self, key: int, source: Payload, header: bytes) -> int:
        """Store a payload in place of what is held; its version, 0 without room."""
        former = self.head(key)
        if not self.sizes.charge(key, bytes_taken(source.nbytes, len(header))):
            return 0
        version = self.versions.next()
        pieces = [source[at : at + CHUNK] for at in range(0, source.nbytes, CHUNK)]
        chunks = len(pieces) if len(pieces) > 1 else 0
        head = Head(version, source.nbytes, checksum(source, header, key), len(header), chunks)
        inline = pieces[0].tobytes() if len(pieces) == 1 else b""
        try:
            for first in range(0, chunks, AT_ONCE):
                pipe = self._client.pipeline(transaction=False)
                for number in range(first, min(first + AT_ONCE, chunks)):
                    name = self._chunk(key, version, number)
                    pipe.set(name, pieces[number].tobytes(), px=self._ttl)
                pipe.execute()
            # From here on readers find all of this version, before nothing of it.
            value = head.pack(key) + header + inline
            self._client.set(self._name(key), value, px=self._ttl)
        except BaseException:
            with contextlib.suppress(Exception):  # The server failed already, and may fail again.
                self._delete_chunks(key, head)
                self.sizes.charge(key, self._size_there(key))
            raise
        self.peak = max(self.peak, self.sizes.known)
        if former is not None:
            self._delete_chunks(key, former)
        return version

    def get(self, key: int) -> Found | None:
        """What is held under `key`; None when that is nothing, or damaged."""
        for _ in range(TRIES):
            data = self._client.get(self._name(key))
            if data is None:
                return None
            head = self._unpacked(data, key)
            if head is None or len(data) < HEAD_BYTES + head.header:
                self._remove_damaged(key)
                return None
            header = bytes(data[HEAD_BYTES : HEAD_BYTES + head.header])
            payload = self._payload(key, head, data)
            if payload is not None:
                if payload.nbytes != head.size or checksum(payload, header, key) != head.check:
                    self._remove_damaged(key)
                    return None
                payload.setflags(write=False)
                return Found(head.version, header, payload)
            # A chunk is gone: it expired, was evicted, or all was replaced meanwhile.
        return None

    def remove(self, key: int, until: int | None = None) -> bool:
        """Delete `key`, unless its version is above `until`; whether anything was deleted."""
        start = self._client.getrange(self._name(key), 0, HEAD_BYTES - 1)
        head = self._unpacked(start, key)
        if until is None or head is None:
            removed = bool(self._client.delete(self._name(key)))
        elif head.version > until:
            return False
        else:
            removed = bool(self._client.eval(DELETE_VERSION, 1, self._name(key), start))
        if head is not None and removed:
            self._delete_chunks(key, head)
        if removed:
            # A full server deletes but does not count. `Sizes` finds out later what is gone.
            self._server.ask(lambda: self.sizes.charge(key, 0), False)
        return removed

    def _payload(self, key: int, head: Head, data: bytes) -> Payload | None:
        """The bytes that belong to `head`; None when a chunk is missing."""
        if not head.chunks:
            return np.frombuffer(data, dtype=np.uint8, offset=HEAD_BYTES + head.header).copy()
        pieces: list[bytes] = []
        for first in range(0, head.chunks, AT_ONCE):
            pipe = self._client.pipeline(transaction=False)
            for number in range(first, min(first + AT_ONCE, head.chunks)):
                pipe.get(self._chunk(key, head.version, number))
            found = pipe.execute()
            if None in found:
                return None
            pieces += found
        return np.frombuffer(b"".join(pieces), dtype=np.uint8).copy()

    def _remove_damaged(self, key: int) -> None:
        self.corrupt += 1
        self._damage.count()
        self.remove(key)

    def _unpacked(self, data: bytes, key: int) -> Head | None:
        head = Head.unpack(data, key)
        if head is not None:
            self.versions.seen(head.version)
        return head

    def _size_there(self, key: int) -> int:
        """Bytes that `key` takes on the server."""
        head = self.head(key)
        return 0 if head is None else bytes_taken(head.size, head.header)

    def _delete_chunks(self, key: int, head: Head) -> None:
        for number in range(head.chunks):
            self._client.unlink(self._chunk(key, head.version, number))

    def _name(self, key: int) -> str:
        return f"{self._prefix}:{key:016x}"

    def _chunk(self, key: int, version: int, number: int) -> str:
        return f"{self._prefix}:{key:016x}:{version}:{number}"


def bytes_taken(payload: int, header: int) -> int:
    """Bytes that the server takes for a payload, about, from the bytes of both parts."""
    chunks = -(-payload // CHUNK)
    return HEAD_BYTES + header + payload + OVERHEAD * (2 + (chunks if chunks > 1 else 0))

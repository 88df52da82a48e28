"""A tier on a server that machines share: Redis, Valkey, or whatever speaks their protocol."""

from __future__ import annotations

import contextlib
import math
from typing import Any, ClassVar

import numpy as np

from transom.errors import InputError, StoreError, TransomError
from transom.memory.tiers.base import Payload, Tier, as_payload
from transom.memory.tiers.breaker import Breaker
from transom.memory.tiers.redis.head import HEAD_BYTES, Head, Versions, checksum
from transom.memory.tiers.redis.server import Server
from transom.memory.tiers.redis.sizes import Sizes
from transom.validation import known_keywords, whole_number

__all__ = ["CHUNK", "RedisTier"]

CHUNK = (1 << 20) - 4096  # bytes per key: the server copies values, and a large one holds up others
AT_ONCE = 8  # chunks asked for at a time
OVERHEAD = 256  # bytes the server takes for a key, about
DAY = 86_400.0
LONGEST = 1e10  # seconds that the server can count
TRIES = 3  # to read what others replace meanwhile

# Deletes what starts as given, and nothing that came later.
DELETE_VERSION = """
if redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""


@known_keywords
class RedisTier(Tier):
    """Payloads on a server, in chunks of less than a MiB, each of which expires.

    A server that does not answer, or refuses, is no error: everything is then a miss, `store`
    answers False, `failures` and `refusals` count, and one that did not answer a few times in a row
    is left alone for a while.

    Args:
        url: `redis://host:port/db`, or `rediss://` and `unix://` as redis-py has them.
        capacity: most bytes it may take under `prefix`, as far as can be told from here: the sizes
            of values and about 256 bytes for each.
        prefix: what its keys start with; one for all who share them.
        ttl: seconds after which the server forgets a payload.
        client: a `redis.Redis` or `redis.RedisCluster` to use in place of a new one.

    Raises:
        InputError: on settings that make no sense.
        MissingExtraError: without `transom[redis]`.

    Notes:
        Safe for use by many machines at once. Every payload has a version that no other one ever
        has, and a reader gets all of one version or nothing, whatever the server forgets, and in
        whichever order.
    """

    name: ClassVar[str] = "redis"
    durable: ClassVar[bool] = True

    @known_keywords
    def __init__(
        self,
        url: str = "redis://127.0.0.1:6379/0",
        capacity: int = 2**30,
        *,
        prefix: str = "transom",
        ttl: float = DAY,
        client: Any = None,
    ) -> None:
        self.capacity = whole_number("RedisTier", "capacity", capacity, 1, unit="bytes")
        number = isinstance(ttl, (int, float)) and not isinstance(ttl, bool)
        if not number or not 0 < ttl < LONGEST:
            raise InputError(f"RedisTier: ttl is {ttl!r}; expected seconds, more than 0.")
        if not isinstance(prefix, str) or not prefix or not _is_utf8(prefix):
            raise InputError(f"RedisTier: prefix is {prefix!r}; expected text, such as 'transom'.")
        self.prefix = prefix
        self._ttl = max(1, math.ceil(1000 * ttl))
        self._peak = 0
        self._versions = Versions()
        self._server = Server(url, client)
        self._client = self._server.client
        self._sizes = Sizes(self._client, prefix, self.capacity, self._size_there)

    @property
    def breaker(self) -> Breaker:
        """When the server is asked, and when it is left alone."""
        return self._server.breaker

    @breaker.setter
    def breaker(self, breaker: Breaker) -> None:
        self._server.breaker = breaker

    @property
    def failures(self) -> int:
        """Times that the server did not answer."""
        return self.breaker.failures

    @property
    def refusals(self) -> int:
        """Times that the server refused, as it was full, or may only be read."""
        return self._server.refusals

    @property
    def used(self) -> int:
        used = 0 if self.closed else self._server.ask(self._sizes.total, 0)
        self._peak = max(self._peak, used)
        return used

    @property
    def peak(self) -> int:
        return max(self._peak, self.used)

    @property
    def nbytes(self) -> int:
        return 0  # Nothing is remembered here.

    def fits(self, size: int) -> bool:
        return _taken(size, 0) <= self.capacity

    # Versions

    def put(self, key: int, payload: Any, header: bytes = b"") -> int:
        """Like `store`, in place of what is held under `key`; its version, 0 when that failed.

        What was held then still is.
        """
        self._check_open()
        key, source = self._given_key(key), as_payload(payload)
        header = self._given_header(header)
        return self._server.ask(lambda: self._put(key, source, header), 0)

    def version(self, key: int) -> int | None:
        """The version of `key` that is held; 0 when none is, None when the server does not say."""
        self._check_open()
        unknown: int | None = None

        def asked() -> int | None:
            head = self._head(key)
            return 0 if head is None else head.version

        return self._server.ask(asked, unknown)

    def get_version(self, key: int) -> tuple[int, bytes, Payload] | None:
        """The version, the label and the payload that are held; None when none is to be had."""
        self._check_open()
        nothing: tuple[int, bytes, Payload] | None = None
        return self._server.ask(lambda: self._get(key), nothing)

    def discard(self, key: int, until: int | None = None) -> bool | None:
        """Delete `key`, if it is held.

        Args:
            key: what to delete.
            until: not what has a higher version; None for whatever there is.

        Returns:
            Whether it was held; None when the server does not say.
        """
        self._check_open()
        unknown: bool | None = None
        return self._server.ask(lambda: self._remove(key, until), unknown)

    def new_version(self) -> int:
        """A version above those of all that was stored so far, as far as clocks agree."""
        return self._versions.next()

    # The whole

    def verify(self) -> list[int]:
        damaged = []
        for key in list(self):
            before = self.corrupt
            try:
                self[key]
            except KeyError:
                if self.corrupt > before:
                    damaged.append(key)
        return damaged

    def __len__(self) -> int:
        return sum(1 for _ in self)

    # What a tier implements

    def _store(self, key: int, source: Payload, header: bytes) -> bool:
        return not self._has(key) and self.put(key, source, header) > 0

    def _replace(self, key: int, source: Payload) -> bool:
        return self.put(key, source) > 0

    def _not_stored(self, key: int, size: int) -> TransomError:
        if self.used + _taken(size, 0) > self.capacity:
            return super()._not_stored(key, size)
        return StoreError(
            f"redis tier: entry {key} is not stored, because the server did not answer or refused "
            f"({self.failures:,} failures, {self.refusals:,} refusals so far); expected one that "
            "answers, can be written to, and has memory left."
        )

    def _put(self, key: int, source: Payload, header: bytes) -> int:
        size = _taken(source.nbytes, len(header))
        former = self._head(key)
        if not self._sizes.charge(key, size):
            return 0
        version = self._versions.next()
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
            # Who reads sees all of this version from here on, and nothing of it before.
            value = head.pack(key) + header + inline
            self._client.set(self._name(f"{key:016x}"), value, px=self._ttl)
        except BaseException:
            with contextlib.suppress(Exception):  # The server did not do as it was told as it is.
                self._delete_chunks(key, head)
                self._sizes.charge(key, self._size_there(key))
            raise
        self._peak = max(self._peak, self._sizes.known)
        if former is not None:
            self._delete_chunks(key, former)
        return version

    def _load(self, key: int) -> Payload:
        found = self.get_version(key)
        if found is None:
            raise KeyError(key)
        return found[2]

    def _get(self, key: int) -> tuple[int, bytes, Payload] | None:
        for _ in range(TRIES):
            data = self._client.get(self._name(f"{key:016x}"))
            if data is None:
                return None
            head = self._unpacked(data, key)
            if head is None or len(data) < HEAD_BYTES + head.header:
                self._damaged(key)
                return None
            header = bytes(data[HEAD_BYTES : HEAD_BYTES + head.header])
            payload = self._payload(key, head, data)
            if payload is not None:
                if payload.nbytes != head.size or checksum(payload, header, key) != head.check:
                    self._damaged(key)
                    return None
                payload.setflags(write=False)
                return head.version, header, payload
            # A chunk is gone: it expired, was evicted, or all was replaced meanwhile.
        return None

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

    def _damaged(self, key: int) -> None:
        self.corrupt += 1
        self._remove(key)

    def _delete(self, key: int) -> None:
        if not self.discard(key):
            raise KeyError(key)

    def _remove(self, key: int, until: int | None = None) -> bool:
        start = self._client.getrange(self._name(f"{key:016x}"), 0, HEAD_BYTES - 1)
        head = self._unpacked(start, key)
        if until is None or head is None:
            was_there = bool(self._client.delete(self._name(f"{key:016x}")))
        elif head.version > until:
            return False
        else:
            was_there = bool(self._client.eval(DELETE_VERSION, 1, self._name(f"{key:016x}"), start))
        if head is not None and was_there:
            self._delete_chunks(key, head)
        if was_there:
            # A server that is full deletes, but counts no longer; what is gone is found out later.
            self._server.ask(lambda: self._sizes.charge(key, 0), False)
        return was_there

    def _keys(self) -> list[int]:
        nothing: list[int] = []
        return self._server.ask(self._sizes.held, nothing)

    def _has(self, key: int) -> bool:
        return self._server.ask(lambda: bool(self._client.exists(self._name(f"{key:016x}"))), False)

    def _size(self, key: int) -> int:
        nothing: Head | None = None
        head = self._server.ask(lambda: self._head(key), nothing)
        if head is None:
            raise KeyError(key)
        return head.size

    def _header(self, key: int) -> bytes:
        found = self.get_version(key)
        if found is None:
            raise KeyError(key)
        return found[1]

    def _replace_header(self, key: int, header: bytes) -> None:
        self._server.ask(lambda: self._put(key, self._load(key), header), 0)

    def _close(self) -> None:
        self._client.close()

    # Names on the server

    def _head(self, key: int) -> Head | None:
        return self._unpacked(
            self._client.getrange(self._name(f"{key:016x}"), 0, HEAD_BYTES - 1), key
        )

    def _unpacked(self, data: bytes, key: int) -> Head | None:
        head = Head.unpack(data, key)
        if head is not None:
            self._versions.seen(head.version)
        return head

    def _size_there(self, key: int) -> int:
        """Bytes that `key` takes on the server."""
        head = self._head(key)
        return 0 if head is None else _taken(head.size, head.header)

    def _delete_chunks(self, key: int, head: Head) -> None:
        for number in range(head.chunks):
            self._client.unlink(self._chunk(key, head.version, number))

    def _name(self, what: str) -> str:
        return f"{self.prefix}:{what}"

    def _chunk(self, key: int, version: int, number: int) -> str:
        return f"{self.prefix}:{key:016x}:{version}:{number}"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _taken(payload: int, header: int) -> int:
    """Bytes that the server takes for a payload."""
    chunks = -(-payload // CHUNK)
    return HEAD_BYTES + header + payload + OVERHEAD * (2 + (chunks if chunks > 1 else 0))

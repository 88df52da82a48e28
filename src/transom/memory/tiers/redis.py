"""A tier on a server that machines share: Redis, Valkey, or whatever speaks their protocol."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeVar

import numpy as np
from xxhash import xxh3_64_intdigest

from transom.checks import whole_number
from transom.errors import InputError, MissingExtraError
from transom.memory.tiers.base import Payload, Tier, as_payload
from transom.memory.tiers.breaker import Breaker

__all__ = ["RedisTier"]

R = TypeVar("R")

HEAD = struct.Struct("<8sQQQHxxI")  # magic, version, size, checksum, label, chunks
MAGIC = b"transomR"
CHUNK = (1 << 20) - 4096  # bytes per key: the server copies values, and a large one holds up others
AT_ONCE = 8  # chunks asked for at a time
OVERHEAD = 256  # bytes the server takes for a key, about
DAY = 86_400.0
WAIT = 0.5  # seconds until a server that does not answer counts as gone

# Keeps a sum of sizes, and refuses what would exceed the capacity.
CHARGE = """
local had = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0')
local used = tonumber(redis.call('GET', KEYS[2]) or '0')
if used - had + tonumber(ARGV[2]) > tonumber(ARGV[3]) then return -1 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return redis.call('INCRBY', KEYS[2], ARGV[2] - had)
"""
UNCHARGE = """
local had = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0')
redis.call('HDEL', KEYS[1], ARGV[1])
return redis.call('DECRBY', KEYS[2], had)
"""


class RedisTier(Tier):
    """Payloads on a server, in chunks of less than a MiB, each of which expires.

    A server that does not answer is no error: everything is then a miss, `store` answers False,
    `failures` counts, and after a few failures in a row the server is left alone for a while.

    Args:
        url: `redis://host:port/db`, or `rediss://` and `unix://` as redis-py has them.
        capacity: most bytes it may take under `prefix`, as far as can be told from here: the sizes
            of values and about 256 bytes for each.
        prefix: what its keys start with; one for all who share them.
        ttl: seconds after which the server forgets a payload.
        client: a `redis.Redis` to use in place of a new one.

    Raises:
        MissingExtraError: without `transom[redis]`.

    Notes:
        Safe for use by many machines at once. Every payload has a version that grows, and a reader
        gets all of one version or nothing.
    """

    name: ClassVar[str] = "redis"
    durable: ClassVar[bool] = True

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
        if not ttl > 0:
            raise InputError(f"RedisTier: ttl is {ttl!r}; expected seconds, more than 0.")
        self.prefix = prefix
        self.breaker = Breaker()
        self._ttl = max(1, round(1000 * ttl))
        self._peak = 0
        self._error, self._client = _connected(url, client)

    @property
    def failures(self) -> int:
        """Times that the server did not answer."""
        return self.breaker.failures

    @property
    def used(self) -> int:
        used = self._ask(lambda: int(self._client.get(self._name("used")) or 0), 0)
        self._peak = max(self._peak, used)
        return used

    @property
    def peak(self) -> int:
        return max(self._peak, self.used)

    @property
    def nbytes(self) -> int:
        return 0  # Nothing is remembered here.

    def fits(self, size: int) -> bool:
        return _size(size, 0) <= self.capacity

    def store(self, key: int, payload: Any, label: bytes = b"") -> bool:
        return self.put(key, payload, label) > 0

    def put(self, key: int, payload: Any, label: bytes = b"") -> int:
        """Like `store`, in place of what is held under `key`; its version, 0 when there is none."""
        source = as_payload(payload)
        return self._ask(lambda: self._put(key, source, label), 0)

    def _put(self, key: int, source: Payload, label: bytes) -> int:
        client, size = self._client, _size(source.nbytes, len(label))
        if not self._charge(key, size):
            self.sweep()
            if not self._charge(key, size):
                return 0
        version = int(client.incr(self._name("clock")))
        former = self._head(key)
        pieces = [source[at : at + CHUNK] for at in range(0, source.nbytes, CHUNK)]
        if len(pieces) > 1:
            for first in range(0, len(pieces), AT_ONCE):
                pipe = client.pipeline(transaction=False)
                for number in range(first, min(first + AT_ONCE, len(pieces))):
                    name = self._chunk(key, version, number)
                    pipe.set(name, pieces[number].tobytes(), px=self._ttl)
                pipe.execute()
        head = HEAD.pack(
            MAGIC,
            version,
            source.nbytes,
            xxh3_64_intdigest(source.data, key),
            len(label),
            len(pieces),
        )
        inline = pieces[0].tobytes() if len(pieces) == 1 else b""
        pipe = client.pipeline()
        pipe.set(self._name(f"{key:016x}"), head + label + inline, px=self._ttl)
        pipe.set(self._name(f"{key:016x}:version"), version, px=self._ttl)
        pipe.execute()
        if former is not None:
            self._delete_chunks(key, former)
        return version

    def version(self, key: int) -> int | None:
        """A number that changes when anybody stores or deletes `key`; 0 after a deletion.

        None when the server has forgotten it, or does not answer.
        """
        name = self._name(f"{key:016x}:version")
        found = self._ask(lambda: self._client.get(name), None)
        return None if found is None else int(found)

    def size(self, key: int) -> int:
        return int(self._known(key)[2])

    def label(self, key: int) -> bytes:
        data = self._ask(lambda: self._client.get(self._name(f"{key:016x}")), None)
        head = _unpacked(data)
        if head is None or data is None:
            raise KeyError(key)
        return bytes(data[HEAD.size : HEAD.size + head[4]])

    def relabel(self, key: int, label: bytes) -> None:
        self.store(key, self[key], label)

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

    def sweep(self) -> None:
        """Uncharge what the server has forgotten."""
        for key in self._keys():
            if not self._client.exists(self._name(f"{key:016x}")):
                self._uncharge(key)

    def close(self) -> None:
        self._client.close()

    def __getitem__(self, key: int) -> Payload:
        payload = self._ask(lambda: self._get(key), None)
        if payload is None:
            raise KeyError(key)
        return payload

    def _get(self, key: int) -> Payload | None:
        data = self._client.get(self._name(f"{key:016x}"))
        if data is None:
            return None
        head = _unpacked(data)
        if head is None:
            self._damaged(key)
            return None
        _, version, size, check, label, chunks = head
        payload: Payload = np.empty(size, dtype=np.uint8)
        if chunks <= 1:
            inline = np.frombuffer(data, dtype=np.uint8, offset=HEAD.size + label)
            whole = inline.nbytes == size
            if whole:
                payload[:] = inline
        elif self._fill(payload, key, version, chunks):
            whole = True
        else:
            return None
        if not whole or xxh3_64_intdigest(payload.data, key) != check:
            self._damaged(key)
            return None
        payload.setflags(write=False)
        return payload

    def _fill(self, payload: Payload, key: int, version: int, chunks: int) -> bool:
        at = 0
        for first in range(0, chunks, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, chunks))
            for piece in self._client.mget([self._chunk(key, version, n) for n in numbers]):
                if piece is None or at + len(piece) > payload.nbytes:
                    return False  # It expired, or was replaced meanwhile.
                payload[at : at + len(piece)] = np.frombuffer(piece, dtype=np.uint8)
                at += len(piece)
        return at == payload.nbytes

    def _damaged(self, key: int) -> None:
        self.corrupt += 1
        self._remove(key)

    def __delitem__(self, key: int) -> None:
        if not self.discard(key):
            raise KeyError(key)

    def discard(self, key: int) -> bool | None:
        """Delete `key`, if it is held; whether it was, None when the server does not answer."""
        unknown: bool | None = None
        return self._ask(lambda: self._remove(key), unknown)

    def _remove(self, key: int) -> bool:
        former = self._head(key)
        pipe = self._client.pipeline()
        pipe.delete(self._name(f"{key:016x}"))
        pipe.set(self._name(f"{key:016x}:version"), 0, px=self._ttl)
        was_there = bool(pipe.execute()[0])
        if former is not None:
            self._delete_chunks(key, former)
        self._uncharge(key)
        return was_there

    def __iter__(self) -> Iterator[int]:
        nothing: list[int] = []
        return iter(self._ask(lambda: [key for key in self._keys() if key in self], nothing))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, key: object) -> bool:
        name = self._name(f"{key:016x}") if isinstance(key, int) else ""
        return bool(name) and self._ask(lambda: bool(self._client.exists(name)), False)

    # The server

    def _ask(self, question: Callable[[], R], otherwise: R) -> R:
        """What the server answers; `otherwise` when it does not."""
        if not self.breaker.allows():
            return otherwise
        try:
            answer = question()
        except self._error:
            self.breaker.failed()
            return otherwise
        self.breaker.succeeded()
        return answer

    def _keys(self) -> list[int]:
        return [int(key, 16) for key in self._client.hkeys(self._name("sizes"))]

    def _charge(self, key: int, size: int) -> bool:
        names = (self._name("sizes"), self._name("used"))
        used = self._client.eval(CHARGE, 2, *names, f"{key:016x}", size, self.capacity)
        self._peak = max(self._peak, int(used))
        return int(used) >= 0

    def _uncharge(self, key: int) -> None:
        names = (self._name("sizes"), self._name("used"))
        self._client.eval(UNCHARGE, 2, *names, f"{key:016x}")

    def _known(self, key: int) -> tuple[Any, ...]:
        head = self._ask(lambda: self._head(key), None)
        if head is None:
            raise KeyError(key)
        return head

    def _head(self, key: int) -> tuple[Any, ...] | None:
        name = self._name(f"{key:016x}")
        return _unpacked(self._client.getrange(name, 0, HEAD.size - 1))

    def _delete_chunks(self, key: int, head: tuple[Any, ...]) -> None:
        if head[5] > 1:
            self._client.unlink(*(self._chunk(key, head[1], n) for n in range(head[5])))

    def _name(self, what: str) -> str:
        return f"{self.prefix}:{what}"

    def _chunk(self, key: int, version: int, number: int) -> str:
        return f"{self.prefix}:{key:016x}:{version}:{number}"


def _unpacked(data: bytes | None) -> tuple[Any, ...] | None:
    if data is None or len(data) < HEAD.size:
        return None
    head = HEAD.unpack_from(data)
    return head if head[0] == MAGIC else None


def _size(payload: int, label: int) -> int:
    chunks = -(-payload // CHUNK)
    return HEAD.size + label + payload + OVERHEAD * (2 + (chunks if chunks > 1 else 0))


def _connected(url: str, client: Any) -> tuple[type[Exception], Any]:
    try:
        import redis
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "RedisTier needs redis, which is not installed; run: pip install 'transom[redis]'."
        ) from error
    if client is None:
        client = redis.Redis.from_url(
            url, socket_timeout=WAIT, socket_connect_timeout=WAIT, health_check_interval=30
        )
    return redis.exceptions.RedisError, client

"""A tier on a server that machines share: Redis, Valkey, or whatever speaks their protocol."""

from __future__ import annotations

import math
import warnings
from typing import ClassVar

from transom.errors import InputError, StoreError, TransomError
from transom.memory.tiers.base import Payload, Tier, as_payload
from transom.memory.tiers.breaker import Breaker
from transom.memory.tiers.given import given_header, given_key
from transom.memory.tiers.redis.head import Head
from transom.memory.tiers.redis.payloads import CHUNK, Found, StoredPayloads, bytes_taken
from transom.memory.tiers.redis.server import Client, Server
from transom.validation import known_keywords, whole_number

__all__ = ["CHUNK", "RedisTier"]

DAY = 86_400.0
LONGEST = 1e10  # seconds that the server can count


@known_keywords
class RedisTier(Tier):
    """Payloads on a server that machines share, each of which expires.

    A server that does not answer, or refuses, is no error: everything is then a miss, `store`
    returns False, and `failures` and `refusals` count. A server that did not answer a few times in
    a row is not asked for a while.

    Args:
        url: `redis://host:port/db`, or `rediss://` and `unix://` as redis-py takes them.
        capacity: most bytes to take under `prefix`, as far as can be told from here: the sizes of
            values, and about 256 bytes for each.
        prefix: what its keys start with; the same on all machines that share it.
        ttl: seconds after which the server forgets a payload.
        client: a `redis.Redis` or `redis.RedisCluster` to use in place of a new one.

    Raises:
        InputError: on settings that make no sense.
        MissingExtraError: without `transom[redis]`.

    Notes:
        Many machines may use the server at once. No two payloads ever have the same version. A
        reader gets all of one version or nothing, whatever the server forgets, in any order.
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
        client: Client = None,
    ) -> None:
        self.capacity = whole_number("RedisTier", "capacity", capacity, 1, unit="bytes")
        number = isinstance(ttl, (int, float)) and not isinstance(ttl, bool)
        if not number or not 0 < ttl < LONGEST:
            raise InputError(f"RedisTier: ttl is {ttl!r}; expected seconds, more than 0.")
        if not isinstance(prefix, str) or not prefix or not _is_utf8(prefix):
            raise InputError(f"RedisTier: prefix is {prefix!r}; expected text, such as 'transom'.")
        self.prefix = prefix
        self._server = Server(url, client)
        self._client = self._server.client
        milliseconds = max(1, math.ceil(1000 * ttl))
        self._payloads = StoredPayloads(self._server, prefix, milliseconds, self.capacity)

    @property
    def breaker(self) -> Breaker:
        """When the server is asked, and when it is left alone."""
        return self._server.breaker

    @breaker.setter
    def breaker(self, breaker: Breaker) -> None:
        self._server.breaker = breaker

    @property
    def failures(self) -> int:
        """How often the server did not answer."""
        return self.breaker.failures

    @property
    def refusals(self) -> int:
        """How often the server refused because it was full or read-only."""
        return self._server.refusals

    @property
    def corrupt(self) -> int:  # type: ignore[override]  # counted where payloads are read
        """How many payloads were found damaged."""
        return self._payloads.corrupt

    @property
    def used(self) -> int:
        used = 0 if self.closed else self._server.ask(self._payloads.sizes.total, 0)
        self._payloads.peak = max(self._payloads.peak, used)
        return used

    @property
    def peak(self) -> int:
        return max(self._payloads.peak, self.used)

    @property
    def nbytes(self) -> int:
        return 0  # Nothing is remembered here.

    def fits(self, size: int) -> bool:
        return bytes_taken(size, 0) <= self.capacity

    # Versions

    def put(self, key: int, payload: object, header: bytes = b"") -> int:
        """Like `store`, in place of what is held under `key`.

        Returns:
            The version of the payload; 0 when that failed, and what was held still is.
        """
        self._check_open()
        key, source = given_key(self.name, key), as_payload(payload)
        header = given_header(self.name, header)
        return self._server.ask(lambda: self._payloads.put(key, source, header), 0)

    def version(self, key: int) -> int | None:
        """The version of `key` that is held; 0 without one, None when the server does not say."""
        self._check_open()
        unknown: int | None = None

        def asked() -> int | None:
            head = self._payloads.head(key)
            return 0 if head is None else head.version

        return self._server.ask(asked, unknown)

    def get_version(self, key: int) -> Found | None:
        """The version, the header and the payload of `key`; None when they cannot be had."""
        self._check_open()
        nothing: Found | None = None
        return self._server.ask(lambda: self._payloads.get(key), nothing)

    def remove(self, key: int, until: int | None = None) -> bool | None:
        """Delete `key` if it is held.

        Args:
            key: what to delete.
            until: the highest version to delete; None for any.

        Returns:
            Whether it was held; None when the server does not say.
        """
        self._check_open()
        unknown: bool | None = None
        return self._server.ask(lambda: self._payloads.remove(key, until), unknown)

    def discard(self, key: int, until: int | None = None) -> bool | None:
        """The former name of `remove`; deprecated."""
        message = "RedisTier.discard is now RedisTier.remove; call that."
        warnings.warn(message, DeprecationWarning, 3)
        return self.remove(key, until)

    def new_version(self) -> int:
        """A version above those of all payloads stored so far, as far as clocks agree."""
        return self._payloads.versions.next()

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
        if self.used + bytes_taken(size, 0) > self.capacity:
            return super()._not_stored(key, size)
        return StoreError(
            f"redis tier: entry {key} is not stored, because the server did not answer or refused "
            f"({self.failures:,} failures, {self.refusals:,} refusals so far); expected one that "
            "answers, can be written to, and has memory left."
        )

    def _load(self, key: int) -> Payload:
        return self._found(key).payload

    def _header(self, key: int) -> bytes:
        return self._found(key).header

    def _found(self, key: int) -> Found:
        found = self.get_version(key)
        if found is None:
            raise KeyError(key)
        return found

    def _delete(self, key: int) -> None:
        if not self.remove(key):
            raise KeyError(key)

    def _keys(self) -> list[int]:
        nothing: list[int] = []
        return self._server.ask(self._payloads.sizes.held, nothing)

    def _has(self, key: int) -> bool:
        return self._server.ask(lambda: self._payloads.has(key), False)

    def _size(self, key: int) -> int:
        nothing: Head | None = None
        head = self._server.ask(lambda: self._payloads.head(key), nothing)
        if head is None:
            raise KeyError(key)
        return head.size

    def _replace_header(self, key: int, header: bytes) -> None:
        self._server.ask(lambda: self._payloads.put(key, self._load(key), header), 0)

    def _close(self) -> None:
        self._client.close()


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

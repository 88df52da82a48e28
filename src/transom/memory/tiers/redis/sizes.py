"""Bytes that a tier takes on a server, counted there by all machines that share it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from transom.memory.tiers.redis.server import Client

__all__ = ["Sizes"]

DIGITS = 16  # of a key
AT_ONCE = 1000  # keys asked about at a time

# The hash holds sizes and their sum, so that the server forgets both or neither. The script returns
# -1 for what would exceed the capacity, and -2 when there is no hash.
CHARGE = """
local had = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0') or 0
local used = tonumber(redis.call('HGET', KEYS[1], 'used') or '-1') or -1
local size = tonumber(ARGV[2])
if used < 0 then return -2 end
if size > had and used - had + size > tonumber(ARGV[3]) then return -1 end
used = math.max(0, used - had + size)
redis.call('HSET', KEYS[1], 'used', used)
if size > 0 then redis.call('HSET', KEYS[1], ARGV[1], size)
else redis.call('HDEL', KEYS[1], ARGV[1]) end
return used
"""


class Sizes:
    """Sizes by key, and their sum, in one hash on the server.

    When the server forgot the hash, it is made again from the payloads that are there. Payloads
    that the server forgot stay charged until room is needed.

    Attributes:
        known: the sum that the server told last.
    """

    def __init__(
        self, client: Client, prefix: str, capacity: int, size_there: Callable[[int], int]
    ) -> None:
        self.known = 0
        self._client = client
        self._prefix = prefix
        self._table = f"{prefix}:sizes"
        self._capacity = capacity
        self._size_there = size_there

    def total(self) -> int:
        """Bytes that are charged."""
        used = self._client.hget(self._table, "used") or b""
        self.known = int(used) if used.isdigit() else 0
        return self.known

    def charge(self, key: int, size: int) -> bool:
        """Charge `size` bytes in place of what is charged for `key`; False without room."""
        return self._charge(key, size) or (self._sweep() and self._charge(key, size))

    def held(self) -> list[int]:
        """The keys that are there."""
        keys = self._charged()
        return [key for key, there in zip(keys, self._there(keys), strict=True) if there]

    def _charge(self, key: int, size: int) -> bool:
        arguments = (CHARGE, 1, self._table, f"{key:016x}", size, self._capacity)
        used = int(self._client.eval(*arguments))
        if used == -2:
            self._count_again()
            used = int(self._client.eval(*arguments))
        if used >= 0:
            self.known = used
        return used >= 0

    def _count_again(self) -> None:
        found = {key: self._size_there(key) for key in self._look_through()}
        sizes = {f"{key:016x}": size for key, size in found.items() if size}
        self._client.hset(self._table, mapping=sizes | {"used": sum(sizes.values())})

    def _look_through(self) -> list[int]:
        """The keys of all payloads that are there, found without the hash."""
        pattern = "".join(f"\\{c}" if c in "*?[]\\^" else c for c in self._prefix)
        names = self._client.scan_iter(match=f"{pattern}:" + "?" * DIGITS, count=AT_ONCE)
        return _keys({bytes(name[-DIGITS:]) for name in names})

    def _sweep(self) -> bool:
        """Charge what the server forgot no longer; whether there was any."""
        keys = self._charged()
        gone = [key for key, there in zip(keys, self._there(keys), strict=True) if not there]
        for key in gone:
            self._charge(key, 0)
        return bool(gone)

    def _charged(self) -> list[int]:
        names = self._client.hkeys(self._table)
        if b"used" not in names:
            return self._look_through()
        return _keys(names)

    def _there(self, keys: list[int]) -> list[bool]:
        found: list[bool] = []
        for first in range(0, len(keys), AT_ONCE):
            pipe = self._client.pipeline(transaction=False)
            for key in keys[first : first + AT_ONCE]:
                pipe.exists(f"{self._prefix}:{key:016x}")
            found += [bool(there) for there in pipe.execute()]
        return found


def _keys(texts: Iterable[bytes]) -> list[int]:
    """The keys in `texts`; other texts are passed over."""
    return [
        int(text, 16)
        for text in texts
        if len(text) == DIGITS and set(text) <= set(b"0123456789abcdef")
    ]

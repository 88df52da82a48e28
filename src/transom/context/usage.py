"""How much of its text a context still holds, and in how many bytes."""

from __future__ import annotations

from typing import NamedTuple

from transom.kv import BoundedCache

__all__ = ["Usage", "usage_of"]


class Usage(NamedTuple):
    """How much a context has seen and holds.

    Attributes:
        seen: tokens fed so far.
        kept: tokens still visible.
        dropped: tokens no longer visible.
        kv_bytes: bytes allocated for keys and values in the cache: the hot ones.
        position: rotary position of the next token.
        cold_bytes: bytes outside the cache, of the blocks that can be recalled and of the table
            that finds them. They grow with the text, and can exceed what full attention holds.
    """

    seen: int
    kept: int
    dropped: int
    kv_bytes: int
    position: int
    cold_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Hot and cold bytes together."""
        return self.kv_bytes + self.cold_bytes


def usage_of(cache: BoundedCache) -> Usage:
    """The usage of a cache as it is now."""
    position = cache.next_position
    return Usage(cache.seen, cache.kept, cache.dropped, cache.nbytes, position, cache.cold_nbytes)

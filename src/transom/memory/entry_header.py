"""The header of an entry, which a durable tier keeps beside its payload."""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

__all__ = ["LISTED", "NAMELESS", "STATE", "EntryHeader"]

# flags, bytes per token, tokens of the parent, key of the entry above, seconds to compute, when
# written, ttl in seconds, version on a shared server, bytes of the namespace and of the id
HEAD = struct.Struct("<BBxxIQQdddQHH")
VERSION = 1
STATE, NAMELESS, LISTED = 1, 2, 4  # flags


class EntryHeader(NamedTuple):
    """An entry without its payload.

    Attributes:
        space: its namespace.
        name: id of its context, even if that was removed.
        nameless: whether its context was removed while others continue the entry.
        state: whether it is a state.
        listed: whether it is found by its first block, whose hash its key is.
        itemsize: bytes per token.
        above: key of the entry that it continues, or whose state it is; 0 for none.
        at: after how many tokens of that entry it continues.
        cost: seconds that it takes to compute it again.
        written: when it was written, in seconds since 1970.
        ttl: seconds after `written` at which it expires; infinite for never.
        version: its version on a server that machines share; 0 without.
    """

    space: str
    name: str
    nameless: bool
    state: bool
    listed: bool
    itemsize: int
    above: int
    at: int
    cost: float
    written: float
    ttl: float
    version: int

    def pack(self) -> bytes:
        """The header as bytes."""
        space, name = (text.encode("utf-8", "surrogatepass") for text in (self.space, self.name))
        flags = STATE * self.state | NAMELESS * self.nameless | LISTED * self.listed
        head = HEAD.pack(
            flags,
            self.itemsize,
            VERSION,
            self.above,
            self.at,
            self.cost,
            self.written,
            self.ttl,
            self.version,
            len(space),
            len(name),
        )
        return head + space + name

    @classmethod
    def unpack(cls, packed: bytes) -> EntryHeader | None:
        """The header in `packed`; None when it is not a header of this version."""
        if len(packed) < HEAD.size:
            return None
        (
            flags,
            itemsize,
            version,
            above,
            at,
            cost,
            written,
            ttl,
            known_as,
            first,
            second,
        ) = HEAD.unpack_from(packed)
        if version != VERSION or len(packed) != HEAD.size + first + second:
            return None
        space = packed[HEAD.size : HEAD.size + first]
        name = packed[HEAD.size + first :]
        return cls(
            space.decode("utf-8", "surrogatepass"),
            name.decode("utf-8", "surrogatepass"),
            bool(flags & NAMELESS),
            bool(flags & STATE),
            bool(flags & LISTED),
            itemsize,
            above,
            at,
            cost,
            written,
            ttl,
            known_as,
        )

    def left(self, now: float) -> float:
        """Seconds until it expires, at most `ttl`, so that a clock set back prolongs nothing.

        Args:
            now: seconds since 1970.
        """
        return math.inf if self.ttl == math.inf else min(self.ttl, self.written + self.ttl - now)

"""What a durable tier keeps about an entry, beside its payload."""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

__all__ = ["LISTED", "NAMELESS", "STATE", "EntryHeader"]

# flags, bytes per token, tokens of the parent, key of what is above, seconds to compute, when
# written, for how many seconds, version elsewhere, length of the namespace and of the id
HEAD = struct.Struct("<BBxxIQQdddQHH")
VERSION = 1
STATE, NAMELESS, LISTED = 1, 2, 4  # flags


class EntryHeader(NamedTuple):
    """An entry without its payload.

    Attributes:
        space: its namespace.
        name: id of its context; also of one that was removed while others continue it.
        nameless: whether it was.
        state: whether it is a state.
        listed: whether it is to be found by its first block, of which the key is the hash.
        itemsize: bytes per token.
        above: key of what it continues, or whose state it is; 0 for none.
        at: tokens of that which it continues.
        cost: seconds that it takes to compute it again.
        written: seconds since 1970.
        ttl: seconds from then on that it is held; infinite for ever.
        version: its number in a tier that machines share; 0 without.
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
        """The label as bytes."""
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
        """The label that was packed; None when it is of another kind."""
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
        """Seconds that it is still held, never more than when it was written.

        A clock that was set back gives nothing a longer life than it was meant to have.
        """
        return math.inf if self.ttl == math.inf else min(self.ttl, self.written + self.ttl - now)

"""An entry at rest: one row of numbers."""

from __future__ import annotations

from typing import NamedTuple

from transom.memory.entry import Namespace
from transom.memory.entry_header import NAMELESS, STATE
from transom.memory.tree import key_hash

__all__ = ["HAS_STATE", "RestingSums", "Row", "hash_of"]

HAS_STATE = 8  # a flag beside those of entry headers
HASH = (1 << 32) - 1


class Row(NamedTuple):
    """What is known of an entry at rest without reading the slow tier.

    Attributes:
        key: its key in the tier.
        space: its namespace.
        above: key of the entry that it continues, or whose state it is; 0 for none.
        size: bytes of its payload.
        start: tokens of all its ancestors that it continues.
        kids: how many entries at rest continue it, its state included.
        flags: STATE, NAMELESS, LISTED, HAS_STATE.
        expires: when it expires, in seconds of the monotonic clock; infinite for never.
    """

    key: int
    space: Namespace
    above: int
    size: int
    start: int
    kids: int
    flags: int
    expires: float

    @property
    def named(self) -> bool:
        """Whether a context ends with it."""
        return not self.flags & (STATE | NAMELESS)


class RestingSums(NamedTuple):
    """Sums over all entries at rest.

    Attributes:
        tokens: lengths of all contexts, in tokens.
        states: how many entries are states.
        token_bytes: bytes of the entries that are not states.
    """

    tokens: int
    states: int
    token_bytes: int


def hash_of(space: str, name: str) -> int:
    """A hash of 32 bits by which contexts at rest are found."""
    return key_hash(space, name) & HASH

"""What a manager holds: stretches of tokens that continue each other, and states beside them."""

from __future__ import annotations

import math
import sys

__all__ = ["ENTRY_BYTES", "Entry", "Namespace"]

NONE: frozenset[Entry] = frozenset()


class Entry:
    """Tokens that continue `parent` after its first `at` tokens, or the state of a context.

    A context that starts like no other is one entry. One that shares its first blocks with
    another continues that one's entry, wherever in it they part, so that no entry is ever cut in
    two. An entry whose context was removed while others continue it has no name.

    Attributes:
        key: its number in tiers and to eviction policies; the same whenever the same first block
            comes after the same tokens.
        space: to which namespace it belongs.
        name: id of the context that ends with it.
        parent: what it continues.
        at: tokens of the parent that it continues.
        start: tokens of all its ancestors that it continues.
        size: bytes of its own.
        cost: seconds that it takes to compute it again.
        expires: when, on the monotonic clock, it is not held any longer.
        kids: entries that continue it.
        state: the state of its context.
        of: of which entry it is the state.
        listed: whether the namespace knows it by its first block.
        pins: readers that asked for it not to leave.
        version: its number in a tier that machines share; 0 without.
    """

    __slots__ = (
        "at",
        "cost",
        "expires",
        "key",
        "kids",
        "listed",
        "name",
        "of",
        "parent",
        "pins",
        "size",
        "space",
        "start",
        "state",
        "version",
    )

    def __init__(
        self,
        key: int,
        space: Namespace,
        name: str | None,
        size: int,
        parent: Entry | None = None,
        at: int = 0,
        cost: float = 0.0,
        expires: float = math.inf,
        of: Entry | None = None,
    ) -> None:
        self.key = key
        self.space = space
        self.name = name
        self.size = size
        self.parent = parent
        self.at = at
        self.start: int = at + parent.start if parent is not None else 0
        self.cost = cost
        self.expires = expires
        self.of = of
        self.kids: set[Entry] | frozenset[Entry] = NONE
        self.state: Entry | None = None
        self.listed = False
        self.pins = 0
        self.version = 0

    @property
    def above(self) -> Entry | None:
        """What must be in every tier that this is in."""
        return self.parent if self.of is None else self.of

    @property
    def is_leaf(self) -> bool:
        return not self.kids and self.state is None

    def path(self) -> list[Entry]:
        """Itself, then what it continues, up to the first."""
        found: list[Entry] = []
        entry: Entry | None = self
        while entry is not None:
            found.append(entry)
            entry = entry.parent
        return found

    def attach(self) -> None:
        """Be known to what it continues."""
        if self.of is not None:
            self.of.state = self
        elif self.parent is not None:
            if not self.parent.kids:
                self.parent.kids = set()
            assert isinstance(self.parent.kids, set)
            self.parent.kids.add(self)

    def detach(self) -> None:
        """Be no longer known to what it continues."""
        if self.of is not None:
            if self.of.state is self:
                self.of.state = None
        elif self.parent is not None and isinstance(self.parent.kids, set):
            self.parent.kids.discard(self)

    def __repr__(self) -> str:
        what = "state" if self.of is not None else "entry"
        return f"<{what} {self.key:x} of {self.name!r}, {self.size:,} bytes>"


class Namespace:
    """Contexts of one tenant: their ids, and their first blocks by a hash that only it can make.

    Attributes:
        name: what the tenant is called.
        salt: where its hashes start from.
        names: contexts by id.
        blocks: entries by the chained hash of their first block.
        bytes: sizes of all its entries.
        quota: most of those; None without one.
    """

    __slots__ = ("blocks", "bytes", "name", "names", "quota", "salt")

    def __init__(self, name: str, salt: int, quota: int | None) -> None:
        self.name = name
        self.salt = salt
        self.quota = quota
        self.bytes = 0
        self.names: dict[str, Entry] = {}
        self.blocks: dict[int, Entry] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of memory that its tables take."""
        return sys.getsizeof(self.names) + sys.getsizeof(self.blocks) + SPACE_BYTES


# An entry with the collector's head, and its key; numbers beside it are shared or small.
ENTRY_BYTES = 16 + sys.getsizeof(Entry(1, Namespace("", 0, None), "", 0)) + 48
SPACE_BYTES = 400

"""What a manager holds: stretches of tokens that continue each other, and states beside them."""

from __future__ import annotations

import math
import sys

__all__ = ["ENTRY_BYTES", "Entry", "Namespace"]


class Entry:
    """Tokens that continue `parent` after its first `at` tokens, or the state of a context.

    A context that starts like no other is one entry. One that shares its first blocks with
    another continues that one's entry, wherever in it they part. An entry whose context was
    removed while others continue it has no name.

    Attributes:
        key: its number in tiers and to eviction policies; where it has a whole block, the hash of
            all tokens up to the end of its first.
        space: to which namespace it belongs.
        name: id of the context that ends with it.
        parent: what it continues.
        at: tokens of the parent that it continues.
        start: tokens of all its ancestors that it continues.
        size: bytes of its own.
        cost: seconds that it takes to compute it again.
        expires: when, on the monotonic clock, it is not held any longer.
        state: the state of its context.
        of: of which entry it is the state.
        listed: whether the namespace knows it by its first block.
        pins: readers that asked for it not to leave.
        version: its number in a tier that machines share; 0 without.
    """

    __slots__ = (
        "_kid",
        "_next",
        "_prior",
        "at",
        "cost",
        "expires",
        "key",
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
        self._kid: Entry | None = None  # the first of those that continue it
        self._next: Entry | None = None  # those that continue the same
        self._prior: Entry | None = None
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
        return self._kid is None and self.state is None

    @property
    def kids(self) -> list[Entry]:
        """Entries that continue it."""
        found, kid = [], self._kid
        while kid is not None:
            found.append(kid)
            kid = kid._next
        return found

    def attach(self) -> None:
        """Be known to what it continues."""
        if self.of is not None:
            self.of.state = self
        elif self.parent is not None:
            self._next = self.parent._kid
            if self._next is not None:
                self._next._prior = self
            self.parent._kid = self

    def detach(self) -> None:
        """Be no longer known to what it continues."""
        if self.of is not None:
            if self.of.state is self:
                self.of.state = None
        elif self.parent is not None:
            if self._prior is not None:
                self._prior._next = self._next
            elif self.parent._kid is self:
                self.parent._kid = self._next
            if self._next is not None:
                self._next._prior = self._prior
            self._next = self._prior = None

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


# An entry and its key; numbers beside it are shared or small.
ENTRY_BYTES = sys.getsizeof(Entry(1, Namespace("", 0, None), "", 0)) + 48
SPACE_BYTES = 400

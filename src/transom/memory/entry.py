"""What a manager holds: stretches of tokens that continue each other, and states beside them."""

from __future__ import annotations

import math
import sys

from transom.memory.entry_header import LISTED, STATE

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
        above: what must be in every tier that this is in: what it continues, or whose state it is.
        at: tokens of the parent that it continues.
        start: tokens of all its ancestors that it continues.
        size: bytes of its own.
        cost: seconds that it takes to compute it again.
        expires: when, on the monotonic clock, it is not held any longer.
        state: the state of its context.
        flags: STATE, when it is a state; LISTED, when the namespace knows it by its first block.
        pins: readers that asked for it not to leave.
        version: its number in a tier that machines share; 0 without.
        resting_kids: entries that continue it and are at rest.
    """

    __slots__ = (
        "_kid",
        "_next",
        "_prior",
        "above",
        "at",
        "cost",
        "expires",
        "flags",
        "key",
        "name",
        "pins",
        "resting_kids",
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
        self.above = parent if of is None else of
        self.flags = STATE if of is not None else 0
        self.at = at
        self.start: int = at + parent.start if parent is not None else 0
        self.cost = cost
        self.expires = expires
        self._kid: Entry | None = None  # the first of those that continue it
        self._next: Entry | None = None  # those that continue the same
        self._prior: Entry | None = None
        self.state: Entry | None = None
        self.pins = 0
        self.version = 0
        self.resting_kids = 0

    @property
    def is_state(self) -> bool:
        return bool(self.flags & STATE)

    @property
    def listed(self) -> bool:
        return bool(self.flags & LISTED)

    @property
    def parent(self) -> Entry | None:
        """What it continues; None for a state."""
        return None if self.is_state else self.above

    @property
    def is_leaf(self) -> bool:
        return self._kid is None and self.state is None and not self.resting_kids

    @property
    def first_kid(self) -> Entry | None:
        """One of those that continue it and are not at rest; None without any."""
        return self._kid

    @property
    def kids(self) -> list[Entry]:
        """Entries that continue it and are not at rest."""
        found, kid = [], self._kid
        while kid is not None:
            found.append(kid)
            kid = kid._next
        return found

    def link(self) -> None:
        """Add it to the kids of what it continues; a state becomes the state of its context."""
        if self.above is None:
            return
        if self.is_state:
            self.above.state = self
        else:
            self._next = self.above._kid
            if self._next is not None:
                self._next._prior = self
            self.above._kid = self

    def unlink(self) -> None:
        """Take it out of what `link` added it to."""
        if self.above is None:
            return
        if self.is_state:
            if self.above.state is self:
                self.above.state = None
        else:
            if self._prior is not None:
                self._prior._next = self._next
            elif self.above._kid is self:
                self.above._kid = self._next
            if self._next is not None:
                self._next._prior = self._prior
            self._next = self._prior = None

    def __repr__(self) -> str:
        what = "state" if self.is_state else "entry"
        return f"<{what} {self.key:x} of {self.name!r}, {self.size:,} bytes>"


class Namespace:
    """Contexts of one tenant: their ids, and their first blocks by a hash that only it can make.

    Attributes:
        name: what the tenant is called.
        salt: where its hashes start from.
        names: contexts by id, those at rest left out.
        blocks: entries by the chained hash of their first block, those at rest left out.
        resting: how many contexts are at rest.
        number: of the namespace among those with entries at rest; -1 without any.
        bytes: sizes of all its entries.
        quota: most of those; None without one.
    """

    __slots__ = ("blocks", "bytes", "name", "names", "number", "quota", "resting", "salt")

    def __init__(self, name: str, salt: int, quota: int | None) -> None:
        self.name = name
        self.salt = salt
        self.quota = quota
        self.bytes = 0
        self.resting = 0
        self.number = -1
        self.names: dict[str, Entry] = {}
        self.blocks: dict[int, Entry] = {}

    @property
    def contexts(self) -> int:
        """How many contexts it has."""
        return len(self.names) + self.resting

    @property
    def nbytes(self) -> int:
        """Bytes of memory that its tables take."""
        return sys.getsizeof(self.names) + sys.getsizeof(self.blocks) + SPACE_BYTES


# An entry and its key; numbers beside it are shared or small.
ENTRY_BYTES = sys.getsizeof(Entry(1, Namespace("", 0, None), "", 0)) + 48
SPACE_BYTES = 400

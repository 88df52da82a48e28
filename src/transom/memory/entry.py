"""What a manager holds: runs of tokens that continue each other, and states beside them."""

from __future__ import annotations

import math
import sys
import time

from transom.memory.entry_header import LISTED, STATE, EntryHeader

__all__ = ["ENTRY_BYTES", "Entry", "Namespace"]


class Entry:
    """Tokens that continue `parent` after its first `at` tokens, or the state of a context.

    A context that starts like no other is one entry. A context that shares its first blocks with
    another continues the entry of that one, from where they differ. An entry whose context was
    removed while others continue it has no name.

    Attributes:
        key: its key in tiers and eviction policies. If it has a whole block, this is the hash of
            all tokens up to the end of its first block.
        space: its namespace.
        name: id of the context that ends with it; None without one.
        above: the entry that it continues, or whose state it is. Every tier that holds this entry
            holds that one too.
        at: after how many tokens of its parent it continues.
        start: tokens of all its ancestors before it.
        size: bytes of its payload.
        cost: seconds that it takes to compute it again.
        expires: when it expires, in seconds of the monotonic clock.
        state: the state of its context.
        flags: STATE, when it is a state; LISTED, when the namespace finds it by its first block.
        pins: how many readers keep it.
        version: its version on a server that machines share; 0 without.
        resting_kids: how many entries at rest continue it, its state included.
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
        self._kid: Entry | None = None  # the first of a linked list
        self._next: Entry | None = None  # in the list of its parent
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
        """The entry that it continues; None for a state."""
        return None if self.is_state else self.above

    @property
    def is_leaf(self) -> bool:
        return self._kid is None and self.state is None and not self.resting_kids

    @property
    def first_kid(self) -> Entry | None:
        """One of the entries in use that continue it; None without any."""
        return self._kid

    @property
    def kids(self) -> list[Entry]:
        """The entries in use that continue it."""
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

    def header(self, itemsize: int) -> EntryHeader:
        """What a durable tier keeps about it; `itemsize` is bytes per token."""
        endless = self.expires == math.inf
        return EntryHeader(
            space=self.space.name,
            name=self.name if self.name is not None else "",
            nameless=self.name is None,
            state=self.is_state,
            listed=self.listed,
            itemsize=1 if self.is_state else itemsize,
            above=self.above.key if self.above is not None else 0,
            at=self.at,
            cost=self.cost,
            written=time.time(),
            ttl=math.inf if endless else self.expires - time.monotonic(),
            version=self.version,
        )

    def __repr__(self) -> str:
        what = "state" if self.is_state else "entry"
        return f"<{what} {self.key:x} of {self.name!r}, {self.size:,} bytes>"


class Namespace:
    """The contexts of one tenant. Its hashes have a salt of their own, so that no other finds them.

    Attributes:
        name: what the tenant is called.
        salt: what its hashes start from.
        names: the last entries of contexts in use, by id.
        blocks: entries in use by the chained hash of their first block.
        resting: how many contexts are at rest.
        number: its number in the rows of entries at rest; -1 without any.
        bytes: sizes of all its entries together.
        quota: the most that `bytes` may be; None for no limit.
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

"""How the processes that share a tier tell each other about changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple

from transom.validation import known_keywords

__all__ = ["Sharing", "TierEvent"]


class TierEvent(NamedTuple):
    """What another process did to a tier, or what was there when it was opened.

    Attributes:
        what: it stored an entry, removed one, or replaced a header.
        key: of the entry.
    """

    what: Literal["add", "remove", "new header"]
    key: int


@known_keywords
class Sharing:
    """The methods of a tier that processes share; the defaults are for one that nobody shares."""

    def news(self) -> Iterable[TierEvent]:
        """What other processes changed since the last call; at the first, all that is there."""
        return ()

    def exclusive(self) -> AbstractContextManager[object]:
        """A context in which no other process changes the tier."""
        return nullcontext()

    @property
    def steady(self) -> bool:
        """Whether no other process can change the tier at this moment."""
        return True

    def maps(self, size: int) -> bool:
        """Whether a payload of `size` bytes is read in place, so that a copy gains nothing."""
        return False

    def report(self, numbers: Sequence[int]) -> None:
        """Tell other processes about this one; see `transom.memory.activity`."""

    def pin(self, key: int) -> None:
        """Have other processes keep `key`; a manager knows its own pins without this."""

    def unpin(self, key: int) -> None:
        """Take one pin of this process off `key`."""

    def may_go(self, key: int) -> bool:
        """Whether nobody else, in this process or another, needs `key` to stay."""
        return True

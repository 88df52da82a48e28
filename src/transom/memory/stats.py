"""What a manager says about itself."""

from __future__ import annotations

import warnings
from typing import NamedTuple

__all__ = ["ContextInfo", "Stats", "TierStats", "Verified"]


class TierStats(NamedTuple):
    """One tier.

    Attributes:
        name: `ram`, `disk` or `redis`.
        entries: payloads held.
        bytes: bytes taken; in memory with everything that is needed to know what is held, on disk
            what the file system has set aside.
        capacity: most bytes it may take.
        peak: most it has taken since it was opened.
        hits: payloads read from it.
        evicted: payloads that had to leave.
        corrupt: payloads found damaged, each of them a miss.
    """

    name: str
    entries: int
    bytes: int
    capacity: int
    peak: int
    hits: int
    evicted: int
    corrupt: int


class Stats(NamedTuple):
    """A manager at one moment.

    Attributes:
        contexts: ids held.
        tokens: sum of their lengths.
        states: KV states held.
        bytes: bytes of memory taken.
        disk_bytes: bytes taken on disk.
        borrowed: bytes of `bytes` of removed contexts and states that somebody has a view of.
        shared: bytes that would be held twice if contexts that start alike shared nothing.
        hits: contexts and states asked for that were held.
        misses: and that were not.
        refused: contexts and states that did not fit.
        expired: and whose time was over.
        unknown: payloads on disk that could not be learnt of, because max_memory is too small to
            know more; to this process they are a miss, to others they are there.
        tiers: each tier, the fastest first.
    """

    contexts: int
    tokens: int
    states: int
    bytes: int
    disk_bytes: int
    borrowed: int
    shared: int
    hits: int
    misses: int
    refused: int
    expired: int
    unknown: int
    tiers: tuple[TierStats, ...]

    @property
    def lent(self) -> int:
        """The former name of `borrowed`; deprecated."""
        warnings.warn("Stats.lent is now Stats.borrowed; use that.", DeprecationWarning, 2)
        return self.borrowed


class ContextInfo(NamedTuple):
    """One context.

    Attributes:
        namespace: whose it is.
        id: its name.
        tokens: its length.
        own_bytes: bytes that no other context has a part in.
        state_bytes: bytes of its KV state.
        tiers: where its last tokens are.
        expires_in: seconds that it is still held; None for ever.
    """

    namespace: str
    id: str
    tokens: int
    own_bytes: int
    state_bytes: int
    tiers: tuple[str, ...]
    expires_in: float | None


class Verified(NamedTuple):
    """What reading everything has shown.

    Attributes:
        entries: payloads read.
        damaged: ids of contexts that are gone because something of theirs could not be read.
        problems: sums that do not come out, each as an equation.
    """

    entries: int
    damaged: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damaged and not self.problems

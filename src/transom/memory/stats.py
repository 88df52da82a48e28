"""The figures of a manager."""

from __future__ import annotations

import warnings
from typing import NamedTuple

__all__ = ["ContextInfo", "Stats", "TierStats", "Verified"]


class TierStats(NamedTuple):
    """One tier.

    Attributes:
        name: `ram`, `disk` or `redis`.
        entries: payloads held.
        bytes: bytes taken: in memory with all tables, on disk as the file system counts them.
        capacity: most bytes it may take.
        peak: most bytes taken since it was opened.
        hits: payloads read from it.
        evicted: entries evicted from it.
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
        contexts: how many contexts are held.
        tokens: sum of their lengths.
        states: how many KV states are held.
        bytes: bytes of memory taken.
        disk_bytes: bytes taken on disk.
        borrowed: bytes, included in `bytes`, of removed contexts and states that a caller still
            has a view of.
        shared: bytes that would be held twice if contexts that start alike shared nothing.
        hits: contexts and states asked for that were held.
        misses: contexts and states asked for that were not held.
        refused: contexts and states that did not fit.
        expired: contexts and states that have expired.
        unknown: payloads on disk that this process cannot find, because max_memory is too small;
            processes with more memory can find them.
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
        own_bytes: bytes of the tokens that it does not share.
        state_bytes: bytes of its KV state.
        tiers: where its last tokens are.
        expires_in: seconds until it expires; None for never.
    """

    namespace: str
    id: str
    tokens: int
    own_bytes: int
    state_bytes: int
    tiers: tuple[str, ...]
    expires_in: float | None


class Verified(NamedTuple):
    """What was found by reading everything.

    Attributes:
        entries: payloads read.
        damaged: ids of contexts that were removed because a part could not be read.
        problems: counts that differ from their recount, each as an equation.
    """

    entries: int
    damaged: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damaged and not self.problems

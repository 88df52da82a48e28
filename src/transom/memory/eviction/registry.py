"""Eviction policies by name: transom's own, and those that installed packages register."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from transom.errors import InputError
from transom.memory.eviction.arc import ARC
from transom.memory.eviction.base import Eviction
from transom.memory.eviction.greedy_dual import GreedyDual
from transom.memory.eviction.lfu_da import LFUDA
from transom.memory.eviction.lru import LRU
from transom.memory.eviction.reuse_odds import ReuseOdds
from transom.memory.eviction.s3_fifo import S3FIFO
from transom.memory.eviction.sieve import Sieve
from transom.memory.eviction.w_tinylfu import WTinyLFU
from transom.plugins import plugins

__all__ = ["eviction", "known"]

BUILT_IN: tuple[type[Eviction], ...] = (
    LRU,
    ARC,
    LFUDA,
    GreedyDual,
    S3FIFO,
    Sieve,
    WTinyLFU,
    ReuseOdds,
)
ENTRY_POINTS = "transom.eviction"


@cache
def known() -> Mapping[str, type[Eviction]]:
    """Every eviction policy by name; packages register theirs under `transom.eviction`.

    Raises:
        InputError: when two claim one name, or an entry point is not an `Eviction`.
    """
    return plugins(ENTRY_POINTS, Eviction, BUILT_IN, InputError)


def eviction(name: str, capacity: int) -> Eviction:
    """A new policy of that name for a tier of `capacity` bytes.

    Raises:
        InputError: on an unknown name, listing the known ones.

    >>> eviction("lru", capacity=1_000_000)
    <LRU: 0 keys, 0 of 1,000,000 bytes>
    """
    policies = known()
    if name not in policies:
        raise InputError(f"unknown eviction {name!r}; known: {', '.join(policies)}.")
    return policies[name](capacity)

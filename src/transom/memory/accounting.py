"""Counts and bytes of what a manager holds."""

from __future__ import annotations

import math
import time

from transom.memory.activity import Activity
from transom.memory.byte_budget import ByteBudget
from transom.memory.contexts import Contexts
from transom.memory.entry_store import EntryStore
from transom.memory.row import HAS_STATE
from transom.memory.stats import ContextInfo, Stats, TierStats
from transom.memory.tier_with_eviction import TierWithEviction
from transom.memory.tiers.base import Tier
from transom.memory.tiers.redis import RedisTier

__all__ = ["contexts", "report_activity", "stats"]


def report_activity(held: Contexts, capacity: int) -> None:
    """Tell the processes that share the slow tier what this one does.

    Args:
        held: what this process holds.
        capacity: bytes of memory that it may take.
    """
    tables = held.store.tables
    fast, slow = tables.fast, tables.slow
    if slow is not None:
        slow.payloads.report(
            Activity(
                at=int(1000 * time.time()),
                contexts=tables.contexts,
                bytes=fast.payloads.used + held.store.overhead.measure(),
                capacity=capacity,
                hits=held.hits,
                misses=held.misses,
                refused=held.refused,
                ram_hits=fast.hits,
                ram_evicted=fast.evicted,
                disk_hits=slow.hits,
                disk_evicted=slow.evicted,
                corrupt=slow.payloads.corrupt,
            )
        )


def stats(held: Contexts, budget: ByteBudget, shared: RedisTier | None, shared_hits: int) -> Stats:
    """Counts and bytes at this moment."""
    store, tables = held.store, held.store.tables
    named = [entry for space in tables.spaces.values() for entry in space.names.values()]
    itemsize = store.dtype.itemsize
    resting = tables.resting.sums(itemsize)
    tokens = resting.tokens + sum(entry.start + entry.size // itemsize for entry in named)
    unshared = resting.token_bytes + sum(entry.size for entry in tables if not entry.is_state)
    overhead = store.overhead.measure()
    ram, slow = tables.fast, tables.slow
    tiers = [_tier(ram, ram.payloads.used + overhead, budget.capacity, budget.peak)]
    if slow is not None:
        disk = slow.payloads
        tiers.append(_tier(slow, disk.used, disk.capacity, disk.peak))
    disk_bytes = sum(tier.bytes for tier in tiers[1:])
    if shared is not None:
        tiers.append(_shared_tier(shared, shared_hits))
    return Stats(
        contexts=tables.contexts,
        tokens=tokens,
        states=resting.states + sum(entry.state is not None for entry in named),
        bytes=tiers[0].bytes,
        disk_bytes=disk_bytes,
        borrowed=ram.payloads.borrowed,
        shared=tokens * itemsize - unshared,
        hits=held.hits,
        misses=held.misses,
        refused=held.refused,
        expired=store.lifecycle.expired,
        unknown=len(store.unknown.keys()),
        tiers=tuple(tiers),
    )


def contexts(store: EntryStore) -> list[ContextInfo]:
    """Every context that is held."""
    now, tables = time.monotonic(), store.tables
    in_use = [
        ContextInfo(
            namespace=space.name,
            id=name,
            tokens=entry.start + entry.size // store.dtype.itemsize,
            own_bytes=entry.size,
            state_bytes=0 if entry.state is None else entry.state.size,
            tiers=tuple(tier.name for tier in tables.tiers if entry in tier),
            expires_in=None if entry.expires is math.inf else entry.expires - now,
        )
        for space in tables.spaces.values()
        for name, entry in space.names.items()
    ]
    return in_use + _at_rest(store, now)


def _at_rest(store: EntryStore, now: float) -> list[ContextInfo]:
    resting, slow = store.tables.resting, store.tables.slow
    found: list[ContextInfo] = []
    for row in list(resting):
        header = resting.header(row.key) if row.named else None
        if header is None or slow is None:
            continue
        state = resting.state(row.key, row.space, header.name) if row.flags & HAS_STATE else None
        found.append(
            ContextInfo(
                namespace=row.space.name,
                id=header.name,
                tokens=row.start + row.size // store.dtype.itemsize,
                own_bytes=row.size,
                state_bytes=0 if state is None else state.size,
                tiers=(slow.name,),
                expires_in=None if row.expires is math.inf else row.expires - now,
            )
        )
    return found


def _tier(tier: TierWithEviction[Tier], taken: int, capacity: int, peak: int) -> TierStats:
    return TierStats(
        name=tier.name,
        entries=len(tier.payloads),
        bytes=taken,
        capacity=capacity,
        peak=peak,
        hits=tier.hits,
        evicted=tier.evicted,
        corrupt=tier.payloads.corrupt,
    )


def _shared_tier(tier: RedisTier, hits: int) -> TierStats:
    return TierStats(
        name=tier.name,
        entries=len(tier),
        bytes=tier.used,
        capacity=tier.capacity,
        peak=tier.peak,
        hits=hits,
        evicted=0,  # The server does not say.
        corrupt=tier.corrupt,
    )

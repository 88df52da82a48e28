"""Counting what is held, and counting again."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from transom.memory.activity import Activity
from transom.memory.byte_budget import ByteBudget
from transom.memory.contexts import Contexts
from transom.memory.entry import Entry
from transom.memory.entry_header import NAMELESS, EntryHeader
from transom.memory.entry_store import EntryStore
from transom.memory.overhead import Overhead
from transom.memory.remote import Remote
from transom.memory.resting import HAS_STATE, Resting
from transom.memory.stats import ContextInfo, Stats, TierStats, Verified
from transom.memory.tier_with_eviction import TierWithEviction
from transom.memory.tiers.base import Tier

__all__ = ["contexts", "report_activity", "stats", "verified"]


def report_activity(held: Contexts, capacity: int) -> None:
    """Tell who shares the second tier what this process does."""
    store = held.store
    fast, slow = store.fast, store.slow
    if slow is not None:
        slow.tier.report(
            Activity(
                at=int(1000 * time.time()),
                contexts=store.contexts,
                bytes=fast.tier.used + store.overhead.measure(),
                capacity=capacity,
                hits=held.hits,
                misses=held.misses,
                refused=held.refused,
                ram_hits=fast.hits,
                ram_evicted=fast.evicted,
                disk_hits=slow.hits,
                disk_evicted=slow.evicted,
                corrupt=slow.tier.corrupt,
            )
        )


def stats(held: Contexts, budget: ByteBudget, remote: Remote | None) -> Stats:
    """Counts and bytes at this moment."""
    store = held.store
    named = [entry for space in store.spaces.values() for entry in space.names.values()]
    itemsize = store.dtype.itemsize
    rest = store.resting.sums(itemsize)
    tokens = rest.tokens + sum(entry.start + entry.size // itemsize for entry in named)
    unshared = rest.token_bytes + sum(entry.size for entry in store if not entry.is_state)
    overhead = store.overhead.measure()
    ram = store.fast
    tiers = [_tier(ram, ram.tier.used + overhead, budget.capacity, budget.peak)]
    tiers += [
        _tier(level, level.tier.used, level.tier.capacity, level.tier.peak)
        for level in store.levels[1:]
    ]
    below = tuple(tiers[1:])
    if remote is not None:
        tier = remote.tier
        tiers.append(
            TierStats(
                tier.name,
                len(tier),
                tier.used,
                tier.capacity,
                tier.peak,
                remote.hits,
                0,
                tier.corrupt,
            )
        )
    return Stats(
        contexts=store.contexts,
        tokens=tokens,
        states=rest.states + sum(entry.state is not None for entry in named),
        bytes=tiers[0].bytes,
        disk_bytes=sum(tier.bytes for tier in below),
        lent=ram.tier.lent,
        shared=tokens * itemsize - unshared,
        hits=held.hits,
        misses=held.misses,
        refused=held.refused,
        expired=store.expired,
        unknown=len(unknown_of(store)),
        tiers=tuple(tiers),
    )


def contexts(store: EntryStore) -> list[ContextInfo]:
    """Every context that is held."""
    now = time.monotonic()
    awake = [
        ContextInfo(
            namespace=space.name,
            id=name,
            tokens=entry.start + entry.size // store.dtype.itemsize,
            own_bytes=entry.size,
            state_bytes=0 if entry.state is None else entry.state.size,
            tiers=tuple(level.tier.name for level in store.levels if entry in level),
            expires_in=None if entry.expires is math.inf else entry.expires - now,
        )
        for space in store.spaces.values()
        for name, entry in space.names.items()
    ]
    return awake + _at_rest(store, now)


def _at_rest(store: EntryStore, now: float) -> list[ContextInfo]:
    resting, slow = store.resting, store.slow
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
                tiers=(slow.tier.name,),
                expires_in=None if row.expires is math.inf else row.expires - now,
            )
        )
    return found


def verified(store: EntryStore, budget: ByteBudget) -> Verified:
    """Read every payload, drop what is damaged, and compare every count with a recount."""
    entries = sum(len(level.held) for level in store.levels) + len(store.resting)
    damaged: set[str] = set()
    if store.slow is not None:
        damaged |= _lost_at_rest(store, store.slow)
    for level in store.levels:
        tier = level.tier
        unreadable = tier.verify() if level is store.fast else _unreadable(tier, level.held)
        for key in unreadable:
            entry = level.held.get(key)
            if entry is not None:
                damaged |= set(_names(entry))
                store.lose_copy(level, entry)
    return Verified(entries, tuple(sorted(damaged)), tuple(problems(store, budget)))


def _lost_at_rest(store: EntryStore, slow: TierWithEviction[Any]) -> set[str]:
    """Read what rests and drop what is damaged; the ids of what is gone with it."""
    resting = store.resting
    damaged: set[str] = set()
    for key in [row.key for row in resting]:
        if key not in resting:
            continue  # It was lost with what it continued.
        header = resting.header(key)  # which is gone when the payload turns out to be damaged
        if header is None:
            slow.tier.corrupt += 1
        elif not _unreadable(slow.tier, [key]):
            continue
        damaged |= set(_names_at_rest(resting, key, header))
        store.rest.lose(key)
    return damaged


def _unreadable(tier: Tier, keys: Iterable[Any]) -> list[int]:
    found = []
    for key in list(keys):
        try:
            tier[key]
        except KeyError:
            found.append(key)
    return found


def _names_at_rest(resting: Resting, key: int, header: EntryHeader | None) -> list[str]:
    row = resting.get(key)
    if row is None:
        return []
    found = [f"entry {key:016x}" if header is None else header.name] * (not row.flags & NAMELESS)
    for kid in resting.kids(key) if row.kids else []:
        found += _names_at_rest(resting, kid.key, resting.header(kid.key))
    return found


def unknown_of(store: EntryStore) -> set[int]:
    """Keys on the second shelf that there was no memory to know, and that are still there."""
    slow = store.slow
    if slow is None:
        return set()
    return {
        key
        for key in store.rest.unknown
        if key in slow.tier and key not in slow.held and key not in store.resting
    }


def problems(store: EntryStore, budget: ByteBudget) -> list[str]:
    """Sums that do not come out, as equations."""
    overhead: Overhead = store.overhead
    every = list(store)
    named = [entry for space in store.spaces.values() for entry in space.names.values()]
    found = [
        _unequal(
            "budget", budget.bytes, "pages + overhead", store.fast.tier.used + overhead.charged
        ),
        _unequal("entries in overhead", overhead.entries, "entries held", len(every)),
        _unequal("bytes of names", overhead.names, "recounted", overhead.recounted(every)),
    ]
    for space in store.spaces.values():
        of_space = [entry for entry in every if entry.space is space]
        total = sum(entry.size for entry in of_space) + store.resting.bytes_of(space)
        found.append(_unequal(f"bytes of namespace {space.name!r}", space.bytes, "sizes", total))
        listed = sum(entry.listed for entry in of_space)
        found.append(_unequal(f"blocks of {space.name!r}", len(space.blocks), "listed", listed))
    for level in store.levels:
        name = level.tier.name
        kids = {id(e.above) for e in level.held.values() if e.above is not None}
        lost = sum(e.above is not None and e.above not in level for e in level.held.values())
        below = level is store.slow
        pinned = sum(
            id(entry) in kids or entry.pins > 0 or (below and entry.resting_kids > 0)
            for entry in level.held.values()
        )
        known = len(level.held)
        if below:
            known += len(store.resting) + len(unknown_of(store))
        found += [
            _unequal(f"{name}: entries", known, "payloads", len(level.tier)),
            _unequal(f"{name}: entries", len(level.held), "in eviction", len(level.eviction)),
            _unequal(f"{name}: entries above which there is none", lost, "none", 0),
            _unequal(f"{name}: pinned", pinned, "in eviction", level.eviction.pinned),
        ]
        if level.tier.used > level.tier.capacity:
            found.append(f"{name}: {level.tier.used:,} bytes > capacity {level.tier.capacity:,}")
    found += _problems_at_rest(store)
    nameless = sum(entry.name is None and entry.is_leaf and not entry.pins for entry in every)
    nameless += len(store.resting.useless())
    found.append(_unequal("entries that nothing needs", nameless, "none", 0))
    gone = sum(not store.holds(entry) for entry in named)
    found.append(_unequal("ids without an entry", gone, "none", 0))
    return [problem for problem in found if problem is not None]


def _problems_at_rest(store: EntryStore) -> list[str | None]:
    rows = list(store.resting)
    kids = Counter(row.above for row in rows)
    awake = {} if store.slow is None else store.slow.held
    wrong = sum(row.kids != kids[row.key] for row in rows)
    wrong += sum(entry.resting_kids != kids[entry.key] for entry in awake.values())
    there = {row.key for row in rows} | set(awake)
    lost = sum(row.above > 0 and row.above not in there for row in rows)
    named = Counter(row.space.name for row in rows if row.named)
    return [
        _unequal("entries at rest with another number of kids", wrong, "none", 0),
        _unequal("entries at rest above which there is none", lost, "none", 0),
        *(
            _unequal(f"contexts of {name!r} at rest", space.resting, "rows", named[name])
            for name, space in store.spaces.items()
        ),
    ]


def _unequal(what: str, one: int, other_name: str, other: int) -> str | None:
    return None if one == other else f"{what} {one:,} != {other_name} {other:,}"


def _names(entry: Entry) -> list[str]:
    found = [] if entry.name is None else [entry.name]
    for kid in entry.kids:
        found += _names(kid)
    return found


def _tier(level: TierWithEviction[Any], taken: int, capacity: int, peak: int) -> TierStats:
    tier = level.tier
    return TierStats(
        tier.name, len(tier), taken, capacity, peak, level.hits, level.evicted, tier.corrupt
    )

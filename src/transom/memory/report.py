"""Counting what is held, and counting again."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from transom.memory.activity import Activity
from transom.memory.books import Books
from transom.memory.contexts import Contexts
from transom.memory.entry import Entry
from transom.memory.holdings import Holdings
from transom.memory.label import NAMELESS, Label
from transom.memory.ledger import Ledger
from transom.memory.remote import Remote
from transom.memory.resting import HAS_STATE, Resting
from transom.memory.shelf import Shelf
from transom.memory.stats import ContextInfo, Stats, TierStats, Verified
from transom.memory.tiers.base import Tier

__all__ = ["contexts", "report_activity", "stats", "verified"]


def report_activity(held: Contexts, capacity: int) -> None:
    """Tell who shares the second tier what this process does."""
    holdings = held.holdings
    fast, slow = holdings.fast, holdings.slow
    if slow is not None:
        slow.tier.report(
            Activity(
                at=int(1000 * time.time()),
                contexts=holdings.contexts,
                bytes=fast.tier.used + holdings.books.measure(),
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


def stats(held: Contexts, ledger: Ledger, remote: Remote | None) -> Stats:
    """Counts and bytes at this moment."""
    holdings = held.holdings
    named = [entry for space in holdings.spaces.values() for entry in space.names.values()]
    itemsize = holdings.dtype.itemsize
    rest = holdings.resting.sums(itemsize)
    tokens = rest.tokens + sum(entry.start + entry.size // itemsize for entry in named)
    unshared = rest.token_bytes + sum(entry.size for entry in holdings if not entry.is_state)
    books = holdings.books.measure()
    ram = holdings.fast
    tiers = [_tier(ram, ram.tier.used + books, ledger.capacity, ledger.peak)]
    tiers += [
        _tier(shelf, shelf.tier.used, shelf.tier.capacity, shelf.tier.peak)
        for shelf in holdings.shelves[1:]
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
        contexts=holdings.contexts,
        tokens=tokens,
        states=rest.states + sum(entry.state is not None for entry in named),
        bytes=tiers[0].bytes,
        disk_bytes=sum(tier.bytes for tier in below),
        lent=ram.tier.lent,
        shared=tokens * itemsize - unshared,
        hits=held.hits,
        misses=held.misses,
        refused=held.refused,
        expired=holdings.expired,
        unknown=len(unknown_of(holdings)),
        tiers=tuple(tiers),
    )


def contexts(holdings: Holdings) -> list[ContextInfo]:
    """Every context that is held."""
    now = time.monotonic()
    awake = [
        ContextInfo(
            namespace=space.name,
            id=name,
            tokens=entry.start + entry.size // holdings.dtype.itemsize,
            own_bytes=entry.size,
            state_bytes=0 if entry.state is None else entry.state.size,
            tiers=tuple(shelf.tier.name for shelf in holdings.shelves if entry in shelf),
            expires_in=None if entry.expires is math.inf else entry.expires - now,
        )
        for space in holdings.spaces.values()
        for name, entry in space.names.items()
    ]
    return awake + _at_rest(holdings, now)


def _at_rest(holdings: Holdings, now: float) -> list[ContextInfo]:
    resting, slow = holdings.resting, holdings.slow
    found: list[ContextInfo] = []
    for row in list(resting):
        label = resting.label(row.key) if row.named else None
        if label is None or slow is None:
            continue
        state = resting.state(row.key, row.space, label.name) if row.flags & HAS_STATE else None
        found.append(
            ContextInfo(
                namespace=row.space.name,
                id=label.name,
                tokens=row.start + row.size // holdings.dtype.itemsize,
                own_bytes=row.size,
                state_bytes=0 if state is None else state.size,
                tiers=(slow.tier.name,),
                expires_in=None if row.expires is math.inf else row.expires - now,
            )
        )
    return found


def verified(holdings: Holdings, ledger: Ledger) -> Verified:
    """Read every payload, drop what is damaged, and compare every count with a recount."""
    entries = sum(len(shelf.held) for shelf in holdings.shelves) + len(holdings.resting)
    damaged: set[str] = set()
    if holdings.slow is not None:
        damaged |= _lost_at_rest(holdings, holdings.slow)
    for shelf in holdings.shelves:
        tier = shelf.tier
        unreadable = tier.verify() if shelf is holdings.fast else _unreadable(tier, shelf.held)
        for key in unreadable:
            entry = shelf.held.get(key)
            if entry is not None:
                damaged |= set(_names(entry))
                holdings.lose_copy(shelf, entry)
    return Verified(entries, tuple(sorted(damaged)), tuple(problems(holdings, ledger)))


def _lost_at_rest(holdings: Holdings, slow: Shelf[Any]) -> set[str]:
    """Read what rests and drop what is damaged; the ids of what is gone with it."""
    resting = holdings.resting
    damaged: set[str] = set()
    for key in [row.key for row in resting]:
        if key not in resting:
            continue  # It was lost with what it continued.
        label = resting.label(key)  # which is gone when the payload turns out to be damaged
        if label is None:
            slow.tier.corrupt += 1
        elif not _unreadable(slow.tier, [key]):
            continue
        damaged |= set(_names_at_rest(resting, key, label))
        holdings.rest.lose(key)
    return damaged


def _unreadable(tier: Tier, keys: Iterable[Any]) -> list[int]:
    found = []
    for key in list(keys):
        try:
            tier[key]
        except KeyError:
            found.append(key)
    return found


def _names_at_rest(resting: Resting, key: int, label: Label | None) -> list[str]:
    row = resting.get(key)
    if row is None:
        return []
    found = [f"entry {key:016x}" if label is None else label.name] * (not row.flags & NAMELESS)
    for kid in resting.kids(key) if row.kids else []:
        found += _names_at_rest(resting, kid.key, resting.label(kid.key))
    return found


def unknown_of(holdings: Holdings) -> set[int]:
    """Keys on the second shelf that there was no memory to know, and that are still there."""
    slow = holdings.slow
    if slow is None:
        return set()
    return {
        key
        for key in holdings.rest.unknown
        if key in slow.tier and key not in slow.held and key not in holdings.resting
    }


def problems(holdings: Holdings, ledger: Ledger) -> list[str]:
    """Sums that do not come out, as equations."""
    books: Books = holdings.books
    every = list(holdings)
    named = [entry for space in holdings.spaces.values() for entry in space.names.values()]
    found = [
        _unequal("ledger", ledger.bytes, "pages + books", holdings.fast.tier.used + books.charged),
        _unequal("entries in books", books.entries, "entries held", len(every)),
        _unequal("bytes of names", books.names, "recounted", books.recounted(every)),
    ]
    for space in holdings.spaces.values():
        of_space = [entry for entry in every if entry.space is space]
        total = sum(entry.size for entry in of_space) + holdings.resting.bytes_of(space)
        found.append(_unequal(f"bytes of namespace {space.name!r}", space.bytes, "sizes", total))
        listed = sum(entry.listed for entry in of_space)
        found.append(_unequal(f"blocks of {space.name!r}", len(space.blocks), "listed", listed))
    for shelf in holdings.shelves:
        name = shelf.tier.name
        kids = {id(e.above) for e in shelf.held.values() if e.above is not None}
        lost = sum(e.above is not None and e.above not in shelf for e in shelf.held.values())
        below = shelf is holdings.slow
        pinned = sum(
            id(entry) in kids or entry.pins > 0 or (below and entry.resting_kids > 0)
            for entry in shelf.held.values()
        )
        known = len(shelf.held)
        if below:
            known += len(holdings.resting) + len(unknown_of(holdings))
        found += [
            _unequal(f"{name}: entries", known, "payloads", len(shelf.tier)),
            _unequal(f"{name}: entries", len(shelf.held), "in eviction", len(shelf.eviction)),
            _unequal(f"{name}: entries above which there is none", lost, "none", 0),
            _unequal(f"{name}: pinned", pinned, "in eviction", shelf.eviction.pinned),
        ]
        if shelf.tier.used > shelf.tier.capacity:
            found.append(f"{name}: {shelf.tier.used:,} bytes > capacity {shelf.tier.capacity:,}")
    found += _problems_at_rest(holdings)
    nameless = sum(entry.name is None and entry.is_leaf and not entry.pins for entry in every)
    nameless += len(holdings.resting.useless())
    found.append(_unequal("entries that nothing needs", nameless, "none", 0))
    gone = sum(not holdings.holds(entry) for entry in named)
    found.append(_unequal("ids without an entry", gone, "none", 0))
    return [problem for problem in found if problem is not None]


def _problems_at_rest(holdings: Holdings) -> list[str | None]:
    rows = list(holdings.resting)
    kids = Counter(row.above for row in rows)
    awake = {} if holdings.slow is None else holdings.slow.held
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
            for name, space in holdings.spaces.items()
        ),
    ]


def _unequal(what: str, one: int, other_name: str, other: int) -> str | None:
    return None if one == other else f"{what} {one:,} != {other_name} {other:,}"


def _names(entry: Entry) -> list[str]:
    found = [] if entry.name is None else [entry.name]
    for kid in entry.kids:
        found += _names(kid)
    return found


def _tier(shelf: Shelf[Any], taken: int, capacity: int, peak: int) -> TierStats:
    tier = shelf.tier
    return TierStats(
        tier.name, len(tier), taken, capacity, peak, shelf.hits, shelf.evicted, tier.corrupt
    )

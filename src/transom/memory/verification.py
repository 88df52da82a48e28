"""Reading every payload, and counting again what is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import TypeVar

from transom.memory.byte_budget import ByteBudget
from transom.memory.entry import Entry
from transom.memory.entry_header import NAMELESS, EntryHeader
from transom.memory.entry_store import EntryStore
from transom.memory.entry_tables import EntryTables
from transom.memory.resting import Resting
from transom.memory.stats import Verified
from transom.memory.tier_with_eviction import TierWithEviction
from transom.memory.tiers.base import Tier

__all__ = ["verified"]

KeyT = TypeVar("KeyT", bound=Hashable)


def verified(store: EntryStore, budget: ByteBudget) -> Verified:
    """Read every payload, forget what is damaged, and compare every count with a recount."""
    tables = store.tables
    entries = sum(len(tier.held) for tier in tables.tiers) + len(tables.resting)
    damaged: set[str] = set()
    if tables.slow is not None:
        damaged |= _forget_damaged_rows(store, tables.slow)
    for tier in tables.tiers:
        keys: Iterable[Hashable]
        if tier is tables.fast:
            keys = tier.payloads.verify()
        else:
            keys = _unreadable(tier.payloads, tier.held)
        for key in keys:
            entry = tier.held.get(key)
            if entry is not None:
                damaged |= set(_names(entry))
                store.forgetting.forget_copy(tier, entry)
    return Verified(entries, tuple(sorted(damaged)), tuple(_problems(store, budget)))


def _forget_damaged_rows(store: EntryStore, slow: TierWithEviction[Tier]) -> set[str]:
    """Read the entries at rest and forget the damaged ones; ids of the contexts that are gone."""
    resting = store.tables.resting
    damaged: set[str] = set()
    for key in [row.key for row in resting]:
        if key not in resting:
            continue  # It was forgotten with what it continued.
        header = resting.header(key)  # to be read first: a damaged payload takes it along
        if header is None:
            slow.payloads.corrupt += 1
        elif not _unreadable(slow.payloads, [key]):
            continue
        damaged |= set(_names_at_rest(resting, key, header))
        store.forgetting.forget_row_with_kids(key)
    return damaged


def _unreadable(tier: Tier, keys: Iterable[KeyT]) -> list[KeyT]:
    found = []
    for key in list(keys):
        try:
            tier[key]  # type: ignore[index]  # entries are held under whole numbers
        except KeyError:
            found.append(key)
    return found


def _names(entry: Entry) -> list[str]:
    found = [] if entry.name is None else [entry.name]
    for kid in entry.kids:
        found += _names(kid)
    return found


def _names_at_rest(resting: Resting, key: int, header: EntryHeader | None) -> list[str]:
    row = resting.get(key)
    if row is None:
        return []
    found = [f"entry {key:016x}" if header is None else header.name] * (not row.flags & NAMELESS)
    for kid in resting.kids(key) if row.kids else []:
        found += _names_at_rest(resting, kid.key, resting.header(kid.key))
    return found


def _problems(store: EntryStore, budget: ByteBudget) -> list[str]:
    """Counts that differ from their recount, each as an equation."""
    tables, overhead = store.tables, store.overhead
    every = list(tables)
    named = [entry for space in tables.spaces.values() for entry in space.names.values()]
    charged = tables.fast.payloads.used + overhead.charged
    found = [
        _unequal("budget", budget.bytes, "pages + overhead", charged),
        _unequal("entries in overhead", overhead.entries, "entries held", len(every)),
        _unequal("bytes of names", overhead.names, "recounted", overhead.recounted(every)),
    ]
    for space in tables.spaces.values():
        of_space = [entry for entry in every if entry.space is space]
        total = sum(entry.size for entry in of_space) + tables.resting.bytes_of(space)
        found.append(_unequal(f"bytes of namespace {space.name!r}", space.bytes, "sizes", total))
        listed = sum(entry.listed for entry in of_space)
        found.append(_unequal(f"blocks of {space.name!r}", len(space.blocks), "listed", listed))
    for tier in tables.tiers:
        found += _problems_of_tier(store, tier)
    found += _problems_at_rest(tables)
    unneeded = sum(entry.name is None and entry.is_leaf and not entry.pins for entry in every)
    unneeded += len(tables.resting.unneeded())
    found.append(_unequal("entries that nothing needs", unneeded, "none", 0))
    gone = sum(not tables.holds(entry) for entry in named)
    found.append(_unequal("ids without an entry", gone, "none", 0))
    return [problem for problem in found if problem is not None]


def _problems_of_tier(store: EntryStore, tier: TierWithEviction[Tier]) -> list[str | None]:
    tables, name = store.tables, tier.name
    below = tier is tables.slow
    kids = {id(e.above) for e in tier.held.values() if e.above is not None}
    orphans = sum(e.above is not None and e.above not in tier for e in tier.held.values())
    pinned = sum(
        id(entry) in kids or entry.pins > 0 or (below and entry.resting_kids > 0)
        for entry in tier.held.values()
    )
    known = len(tier.held)
    if below:
        known += len(tables.resting) + len(store.unknown.keys())
    found = [
        _unequal(f"{name}: entries", known, "payloads", len(tier.payloads)),
        _unequal(f"{name}: entries", len(tier.held), "in eviction", len(tier.eviction)),
        _unequal(f"{name}: entries that continue none here", orphans, "none", 0),
        _unequal(f"{name}: pinned", pinned, "in eviction", tier.eviction.pinned),
    ]
    used, capacity = tier.payloads.used, tier.payloads.capacity
    if used > capacity:
        found.append(f"{name}: {used:,} bytes > capacity {capacity:,}")
    return found


def _problems_at_rest(tables: EntryTables) -> list[str | None]:
    rows = list(tables.resting)
    kids = Counter(row.above for row in rows)
    in_use = {} if tables.slow is None else tables.slow.held
    wrong = sum(row.kids != kids[row.key] for row in rows)
    wrong += sum(entry.resting_kids != kids[entry.key] for entry in in_use.values())
    known = {row.key for row in rows} | set(in_use)
    orphans = sum(row.above > 0 and row.above not in known for row in rows)
    named = Counter(row.space.name for row in rows if row.named)
    return [
        _unequal("entries at rest with another number of kids", wrong, "none", 0),
        _unequal("entries at rest that continue none", orphans, "none", 0),
        *(
            _unequal(f"contexts of {name!r} at rest", space.resting, "rows", named[name])
            for name, space in tables.spaces.items()
        ),
    ]


def _unequal(what: str, one: int, other_name: str, other: int) -> str | None:
    return None if one == other else f"{what} {one:,} != {other_name} {other:,}"

"""Learning what is on a shelf that others use too, and what they did there."""

from __future__ import annotations

import itertools
import math
import time
from array import array

from transom.errors import StoreError
from transom.memory.entry import Entry, Namespace
from transom.memory.entry_header import LISTED, NAMELESS, STATE
from transom.memory.entry_store import EntryStore
from transom.memory.resting import HAS_STATE, Row
from transom.memory.tier_with_eviction import TierWithEviction
from transom.memory.tiers.base import Tier, TierEvent

__all__ = ["sync_from_tier"]


def sync_from_tier(store: EntryStore, *, first: bool = False) -> None:
    """Bring `store` up to date with their second shelf, at first with all that is on it.

    The first time, what nothing needs is looked for too: a process that was killed may have
    removed what continued an entry, and not the entry. Where there is too little memory to know
    all, it is what was stored last that is known.

    What another process removed is removed here from memory as well. An entry that only this
    process has, and whose key another one has used meanwhile, gives way.

    Raises:
        StoreError: when tokens there are of another type than here.
    """
    slow = store.slow
    if slow is None:
        return
    slow.following = True
    try:
        if first:
            _learn_all(store, array("Q", (item.key for item in slow.tier.news())))
        else:
            for item in slow.tier.news():
                _learn(store, slow, item)
    finally:
        slow.following = False
    if first:
        store.doubtful += store.resting.useless()
    if store.doubtful or store.useless:
        store.settle()


def _learn_all(store: EntryStore, keys: array[int]) -> None:
    """Learn what there is, stored first first, as far as there is room to know it."""
    beyond = max(0, len(keys) - store.overhead.rows_that_fit())
    rest = store.rest
    rest.unknown.fill((key, rest.hash_at(key)) for key in keys[:beyond])
    store.overhead.reserve(len(keys) - beyond)
    for key in itertools.islice(keys, beyond, None):
        for above in reversed(_unknown_above(store, key)):
            _added(store, above)
        _added(store, key)
    # Some may have been learnt because of what continues them, or given up for what came later.
    once = {key: hashed for key, hashed in rest.unknown.items() if key not in store.resting}
    rest.unknown.fill(once.items())


def _unknown_above(store: EntryStore, key: int) -> list[int]:
    """What `key` continues and is not known, the nearest first."""
    found: list[int] = []
    while store.rest.unknown:
        header = store.resting.header(key)
        key = 0 if header is None else header.above
        if not key or key in store.resting:
            break
        found.append(key)
    return found


def _learn(store: EntryStore, slow: TierWithEviction[Tier], item: TierEvent) -> None:
    key = item.key
    if item.what == "add":
        _added(store, key)
        return
    entry = slow.held.get(key)
    if item.what == "drop":
        if entry is not None:
            _dropped(store, entry)
        elif key in store.resting:
            store.rest.lose(key)
        else:
            store.rest.forget_gone()
        return
    header = store.resting.header(key)
    if header is None or not header.nameless:
        return
    row = store.resting.get(key)
    if entry is not None and entry.name is not None:
        if entry.state is not None:
            store.discard(entry.state)
        store.unname(entry)
        store.discard_unless_needed(entry)
    elif row is not None and row.named:
        store.resting.unname(key)
        store.rest.drop_unless_needed(key)


def _added(store: EntryStore, key: int) -> None:
    slow, resting = store.slow, store.resting
    assert slow is not None
    if key in slow.held or key in resting:
        return
    header = resting.header(key)
    if header is None:
        return
    if not header.state and header.itemsize != store.dtype.itemsize:
        raise StoreError(
            f"the {slow.tier.name} tier holds tokens of {header.itemsize} bytes, and the "
            f"vocab_size given here takes {store.dtype.itemsize}; expected that which it was made "
            "with."
        )
    space = store.space(header.space)
    if not header.state and not header.nameless:  # also where it cannot be known itself
        _replace(store, space, header.name)
    left = header.left(time.time())
    awake, row = slow.held.get(header.above), resting.get(header.above)
    if left <= 0 or (header.above and awake is None and row is None):
        lost = left <= 0 or header.above not in slow.tier
        if lost:
            store.useless.append(key)
        else:
            store.rest.not_known(key)
        return
    if key in store.fast.held:
        store.lose_copy(store.fast, store.fast.held[key])
    if not store.rest.learn_room(header.above):
        store.rest.not_known(key)
        return
    size = slow.tier.size(key)
    listed = header.listed and key not in space.blocks
    above_start = awake.start if awake is not None else row.start if row is not None else 0
    resting.add(
        Row(
            key,
            space,
            header.above,
            size,
            0 if header.state else header.at + above_start,
            0,
            STATE * header.state | NAMELESS * header.nameless | LISTED * listed,
            math.inf if left == math.inf else time.monotonic() + left,
        ),
        header.name,
    )
    space.bytes += size
    if awake is not None:
        store.rest.add_kids_of(awake, 1)
        if header.state and store.rest.wake(key) is None and key in resting:
            store.rest.drop(key)  # without memory to know it, it goes
    elif row is not None:
        resting.add_kids(row.key, 1)
        if header.state:
            resting.flag(row.key, HAS_STATE, on=True)


def _replace(store: EntryStore, space: Namespace, name: str) -> None:
    """Whatever is known under an id gives way to what another process has stored under it."""
    former = space.names.get(name)
    if former is not None:
        _replaced(store, former)
    found = store.resting.named(space, name) if space.resting else None
    if found is not None:
        row = found[0]
        if row.kids:
            store.resting.unname(row.key)
        else:
            store.rest.drop(row.key)


def _replaced(store: EntryStore, former: Entry) -> None:
    """`former`, which is only in memory, has another's context of that id in its place."""
    if former.state is not None:
        store.discard(former.state)
    if former.is_leaf:
        store.discard(former)
    else:
        store.unname(former)


def _dropped(store: EntryStore, entry: Entry) -> None:
    slow = store.slow
    assert slow is not None
    for kid in [*entry.kids, *([entry.state] if entry.state is not None else [])]:
        if kid in slow:  # It is to be dropped as well, in a change that comes later.
            _dropped(store, kid)
    if entry.resting_kids:
        for row in store.resting.kids(entry.key):
            store.rest.lose(row.key)
    if entry not in slow:
        return
    slow.drop(entry)
    store.useless.append(entry.key)  # what it continued is gone, if it is not so itself
    if entry not in store.fast:
        store.forget(entry)
    elif entry.is_leaf:
        store.discard(entry)
    elif entry.name is not None:
        store.unname(entry)

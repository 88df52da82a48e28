"""Bringing an entry store up to date with a slow tier that other processes use too."""

from __future__ import annotations

import itertools
import math
import time
from array import array

from transom.errors import StoreError
from transom.memory.entry import Entry, Namespace
from transom.memory.entry_header import LISTED, NAMELESS, STATE, EntryHeader
from transom.memory.entry_store import EntryStore
from transom.memory.row import HAS_STATE, Row
from transom.memory.tiers.base import TierEvent

__all__ = ["sync_from_tier"]


def sync_from_tier(store: EntryStore, *, first: bool = False) -> None:
    """Learn what other processes did to the slow tier; the first time, all that is on it.

    An entry that another process removed is forgotten here too, in memory as well. An entry that
    only this process has is forgotten if another process has used its key meanwhile. If memory is
    too small to know every entry, those stored last are known.

    The first time, this also looks for entries that nothing needs: a killed process may have
    removed the entries that continued one, but not that one.

    Raises:
        StoreError: when the tokens on the tier are of another type than here.
    """
    tables = store.tables
    if tables.slow is None:
        return
    tables.syncing = True
    try:
        if first:
            keys = array("Q", (event.key for event in tables.slow.payloads.news()))
            _learn_all(store, keys)
        else:
            for event in tables.slow.payloads.news():
                _learn(store, event)
    finally:
        tables.syncing = False
    if first:
        tables.perhaps_unneeded += tables.resting.unneeded()
    if tables.perhaps_unneeded or tables.to_delete:
        store.forgetting.forget_put_aside()


def _learn_all(store: EntryStore, keys: array[int]) -> None:
    """Learn all entries, `keys` in the order in which they were stored, as memory allows."""
    tables, unknown = store.tables, store.tables.unknown
    beyond = max(0, len(keys) - store.overhead.rows_that_fit())
    unknown.fill((key, store.unknown.hash_at(key)) for key in keys[:beyond])
    store.overhead.reserve(len(keys) - beyond)
    for key in itertools.islice(keys, beyond, None):
        for above in reversed(_unknown_above(store, key)):
            _learn_added(store, above)
        _learn_added(store, key)
    # Some may be known by now, through entries that continue them, or unknown again.
    once = {key: hashed for key, hashed in unknown.items() if key not in tables.resting}
    unknown.fill(once.items())


def _unknown_above(store: EntryStore, key: int) -> list[int]:
    """The unknown entries that `key` continues, the nearest first."""
    resting = store.tables.resting
    found: list[int] = []
    while store.tables.unknown:
        header = resting.header(key)
        key = 0 if header is None else header.above
        if not key or key in resting:
            break
        found.append(key)
    return found


def _learn(store: EntryStore, event: TierEvent) -> None:
    if event.what == "add":
        _learn_added(store, event.key)
    elif event.what == "remove":
        _learn_removed(store, event.key)
    else:
        _learn_header(store, event.key)


def _learn_added(store: EntryStore, key: int) -> None:
    """Another process has stored `key`, or it was there when the store was opened."""
    tables, slow, resting = store.tables, store.tables.below, store.tables.resting
    if tables.knows(key):
        return
    header = resting.header(key)
    if header is None:
        return
    if not header.state and header.itemsize != store.dtype.itemsize:
        raise StoreError(
            f"the {slow.name} tier holds tokens of {header.itemsize} bytes, and the "
            f"vocab_size given here takes {store.dtype.itemsize}; give the vocab_size that the "
            "store was made with."
        )
    space = store.space(header.space)
    if not header.state and not header.nameless:  # also where it cannot be known itself
        _forget_replaced(store, space, header.name)
    left = header.left(time.time())
    above, above_row = slow.held.get(header.above), resting.get(header.above)
    if left <= 0 or (header.above and above is None and above_row is None):
        if left <= 0 or header.above not in slow.payloads:
            tables.to_delete.append(key)  # expired, or what it continues is gone
        else:
            store.unknown.add(key)
        return
    if key in tables.fast.held:
        store.forgetting.forget_copy(tables.fast, tables.fast.held[key])
    if not store.rest.make_room_to_learn(header.above):
        store.unknown.add(key)
        return
    above_start = above.start if above is not None else above_row.start if above_row else 0
    row = _row(key, slow.payloads.size(key), header, space, above_start)
    resting.add(row, header.name)
    space.bytes += row.size
    if above is not None:
        tables.add_resting_kids(above, 1)
        if header.state and store.rest.wake(key) is None and key in resting:
            store.forgetting.forget_row(key, delete_later=True)  # no memory to know it
    elif above_row is not None:
        resting.add_kids(above_row.key, 1)
        if header.state:
            resting.flag(above_row.key, HAS_STATE, on=True)


def _row(key: int, size: int, header: EntryHeader, space: Namespace, above_start: int) -> Row:
    listed = header.listed and key not in space.blocks
    left = header.left(time.time())
    return Row(
        key,
        space,
        header.above,
        size,
        0 if header.state else header.at + above_start,
        0,
        STATE * header.state | NAMELESS * header.nameless | LISTED * listed,
        math.inf if left == math.inf else time.monotonic() + left,
    )


def _learn_removed(store: EntryStore, key: int) -> None:
    """Another process has deleted `key`."""
    entry = store.tables.below.held.get(key)
    if entry is not None:
        _forget_removed(store, entry)
    elif key in store.tables.resting:
        store.forgetting.forget_row_with_kids(key, delete_later=True)
    else:
        store.unknown.forget_gone()


def _learn_header(store: EntryStore, key: int) -> None:
    """Another process has replaced the header of `key`: its context may be removed."""
    tables, forgetting = store.tables, store.forgetting
    header = tables.resting.header(key)
    if header is None or not header.nameless:
        return
    entry, row = tables.below.held.get(key), tables.resting.get(key)
    if entry is not None and entry.name is not None:
        _forget_state(store, entry)
        forgetting.forget_name(entry)
        forgetting.forget_unneeded(entry)
    elif row is not None and row.named:
        tables.resting.forget_name(key)
        forgetting.forget_unneeded_row(key)


def _forget_replaced(store: EntryStore, space: Namespace, name: str) -> None:
    """Another process has stored a context under an id; forget what is held under it here."""
    former = space.names.get(name)
    if former is not None:
        _forget_state(store, former)
        _forget_context(store, former)
    found = store.tables.resting.named(space, name) if space.resting else None
    if found is not None:
        row = found[0]
        if row.kids:
            store.tables.resting.forget_name(row.key)
        else:
            store.forgetting.forget_row(row.key, delete_later=True)


def _forget_state(store: EntryStore, entry: Entry) -> None:
    state, slow = entry.state, store.tables.below
    if state is None:
        return
    if state in slow:  # Another process deletes it, or has done so.
        slow.forget(state, delete=False)
    if state in store.tables.fast:
        store.tables.fast.forget(state)
    store.forgetting.forget(state)


def _forget_context(store: EntryStore, entry: Entry) -> None:
    """Forget `entry`, or only its name where others continue it."""
    tables = store.tables
    if not entry.is_leaf:
        store.forgetting.forget_name(entry)
        return
    if entry in tables.below:
        tables.below.forget(entry, delete=False)
    if entry in tables.fast:
        tables.fast.forget(entry)
    store.forgetting.forget(entry)


def _forget_removed(store: EntryStore, entry: Entry) -> None:
    """Another process has deleted `entry`, which is in use, and with it what continues it."""
    tables, forgetting = store.tables, store.forgetting
    for kid in [*entry.kids, *([entry.state] if entry.state is not None else [])]:
        if kid in tables.below:  # The event that it was deleted comes later.
            _forget_removed(store, kid)
    if entry.resting_kids:
        for row in tables.resting.kids(entry.key):
            forgetting.forget_row_with_kids(row.key, delete_later=True)
    if entry not in tables.below:
        return
    tables.below.forget(entry, delete=False)
    tables.to_delete.append(entry.key)  # unless it is deleted already
    if entry not in tables.fast:
        forgetting.forget(entry)
    elif entry.is_leaf:
        forgetting.forget_everywhere(entry)
    elif entry.name is not None:
        forgetting.forget_name(entry)

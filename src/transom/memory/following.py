"""Learning what is on a shelf that others use too, and what they did there."""

from __future__ import annotations

import gc
import math
import time

from transom.errors import StoreError
from transom.memory.entry import Entry
from transom.memory.holdings import Holdings
from transom.memory.label import Label
from transom.memory.shelf import Shelf
from transom.memory.tiers.base import News, Tier

__all__ = ["follow"]

MANY = 5000  # entries learnt of at once


def follow(holdings: Holdings, *, first: bool = False) -> None:
    """Bring `holdings` up to date with their second shelf, at first with all that is on it.

    The first time, what nothing needs is looked for too: a process that was killed may have
    removed what continued an entry, and not the entry.

    What another process removed is removed here from memory as well. An entry that only this
    process has, and whose key another one has used meanwhile, gives way.

    Raises:
        StoreError: when tokens there are of another type than here.
    """
    slow = holdings.slow
    if slow is None:
        return
    news = slow.tier.news()
    if news:
        slow.following = True
        # So many new objects would have the garbage collector look at all of them again and again.
        pause = len(news) > MANY and gc.isenabled()
        if pause:
            gc.disable()
        try:
            for item in news:
                _learn(holdings, slow, item)
        finally:
            slow.following = False
            if pause:
                gc.enable()
    if first:
        holdings.doubtful += [x for x in holdings if x.name is None and x.is_leaf]
    if holdings.doubtful or holdings.useless:
        holdings.settle()


def _learn(holdings: Holdings, slow: Shelf[Tier], item: News) -> None:
    if item.what == "add":
        _added(holdings, item.key, Label.unpack(item.label))
        return
    entry = slow.held.get(item.key)
    if entry is None:
        return
    label = Label.unpack(item.label)
    if item.what == "drop":
        _dropped(holdings, entry)
    elif entry.name is not None and label is not None and label.nameless:
        if entry.state is not None:
            holdings.discard(entry.state)
        holdings.unname(entry)


def _added(holdings: Holdings, key: int, label: Label | None) -> None:
    slow = holdings.slow
    assert slow is not None
    if label is None or key in slow.held or key not in slow.tier:
        return
    if not label.state and label.itemsize != holdings.dtype.itemsize:
        raise StoreError(
            f"the {slow.tier.name} tier holds tokens of {label.itemsize} bytes, and the vocab_size "
            f"given here takes {holdings.dtype.itemsize}; expected the one it was made with."
        )
    left = label.left(time.time())
    above = slow.held.get(label.above)
    if left <= 0 or (above is None and label.above):
        holdings.useless.append(key)
        return
    if key in holdings.fast.held:
        holdings.lose_copy(holdings.fast, holdings.fast.held[key])
    space = holdings.space(label.space)
    entry = Entry(
        key,
        space,
        None if label.nameless else label.name,
        slow.tier.size(key),
        None if label.state else above,
        label.at,
        label.cost,
        math.inf if left == math.inf else time.monotonic() + left,
        above if label.state else None,
    )
    entry.version = label.version
    entry.listed = label.listed and key not in space.blocks
    former = None if label.state or label.nameless else space.names.get(label.name)
    if former is not None:
        _replaced(holdings, former)
    if holdings.books.enter(entry):
        slow.add(entry)
        holdings.know(entry)
    else:
        holdings.unknown += 1


def _replaced(holdings: Holdings, former: Entry) -> None:
    """`former`, which is only in memory, has another's context of that id in its place."""
    if former.state is not None:
        holdings.discard(former.state)
    if former.is_leaf:
        holdings.discard(former)
    else:
        holdings.unname(former)


def _dropped(holdings: Holdings, entry: Entry) -> None:
    slow = holdings.slow
    assert slow is not None
    for kid in [*entry.kids, *([entry.state] if entry.state is not None else [])]:
        if kid in slow:  # It is to be dropped as well, in a change that comes later.
            _dropped(holdings, kid)
    if entry not in slow:
        return
    slow.drop(entry)
    if entry not in holdings.fast:
        holdings.forget(entry)
    elif entry.is_leaf:
        holdings.discard(entry)
    elif entry.name is not None:
        holdings.unname(entry)

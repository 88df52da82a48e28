"""Learning what is on a shelf that others use too, and what they did there."""

from __future__ import annotations

import itertools
import math
import time
from array import array

from transom.errors import StoreError
from transom.memory.entry import Entry, Namespace
from transom.memory.holdings import Holdings
from transom.memory.label import LISTED, NAMELESS, STATE
from transom.memory.resting import HAS_STATE, Row
from transom.memory.shelf import Shelf
from transom.memory.tiers.base import News, Tier

__all__ = ["follow"]


def follow(holdings: Holdings, *, first: bool = False) -> None:
    """Bring `holdings` up to date with their second shelf, at first with all that is on it.

    The first time, what nothing needs is looked for too: a process that was killed may have
    removed what continued an entry, and not the entry. Where there is too little memory to know
    all, it is what was stored last that is known.

    What another process removed is removed here from memory as well. An entry that only this
    process has, and whose key another one has used meanwhile, gives way.

    Raises:
        StoreError: when tokens there are of another type than here.
    """
    slow = holdings.slow
    if slow is None:
        return
    slow.following = True
    try:
        if first:
            _learn_all(holdings, array("Q", (item.key for item in slow.tier.news())))
        else:
            for item in slow.tier.news():
                _learn(holdings, slow, item)
    finally:
        slow.following = False
    if first:
        holdings.doubtful += holdings.resting.useless()
    if holdings.doubtful or holdings.useless:
        holdings.settle()


def _learn_all(holdings: Holdings, keys: array[int]) -> None:
    """Learn what there is, stored first first, as far as there is room to know it."""
    beyond = max(0, len(keys) - holdings.books.rows_that_fit())
    rest = holdings.rest
    rest.unknown.fill((key, rest.hash_at(key)) for key in keys[:beyond])
    holdings.books.reserve(len(keys) - beyond)
    for key in itertools.islice(keys, beyond, None):
        for above in reversed(_unknown_above(holdings, key)):
            _added(holdings, above)
        _added(holdings, key)
    # Some may have been learnt because of what continues them, or given up for what came later.
    once = {key: hashed for key, hashed in rest.unknown.items() if key not in holdings.resting}
    rest.unknown.fill(once.items())


def _unknown_above(holdings: Holdings, key: int) -> list[int]:
    """What `key` continues and is not known, the nearest first."""
    found: list[int] = []
    while holdings.rest.unknown:
        label = holdings.resting.label(key)
        key = 0 if label is None else label.above
        if not key or key in holdings.resting:
            break
        found.append(key)
    return found


def _learn(holdings: Holdings, slow: Shelf[Tier], item: News) -> None:
    key = item.key
    if item.what == "add":
        _added(holdings, key)
        return
    entry = slow.held.get(key)
    if item.what == "drop":
        if entry is not None:
            _dropped(holdings, entry)
        elif key in holdings.resting:
            holdings.rest.lose(key)
        else:
            holdings.rest.forget_gone()
        return
    label = holdings.resting.label(key)
    if label is None or not label.nameless:
        return
    row = holdings.resting.get(key)
    if entry is not None and entry.name is not None:
        if entry.state is not None:
            holdings.discard(entry.state)
        holdings.unname(entry)
        holdings.discard_unless_needed(entry)
    elif row is not None and row.named:
        holdings.resting.unname(key)
        holdings.rest.drop_unless_needed(key)


def _added(holdings: Holdings, key: int) -> None:
    slow, resting = holdings.slow, holdings.resting
    assert slow is not None
    if key in slow.held or key in resting:
        return
    label = resting.label(key)
    if label is None:
        return
    if not label.state and label.itemsize != holdings.dtype.itemsize:
        raise StoreError(
            f"the {slow.tier.name} tier holds tokens of {label.itemsize} bytes, and the vocab_size "
            f"given here takes {holdings.dtype.itemsize}; expected the one it was made with."
        )
    space = holdings.space(label.space)
    if not label.state and not label.nameless:  # also where it cannot be known itself
        _replace(holdings, space, label.name)
    left = label.left(time.time())
    awake, row = slow.held.get(label.above), resting.get(label.above)
    if left <= 0 or (label.above and awake is None and row is None):
        lost = left <= 0 or label.above not in slow.tier
        if lost:
            holdings.useless.append(key)
        else:
            holdings.rest.not_known(key)
        return
    if key in holdings.fast.held:
        holdings.lose_copy(holdings.fast, holdings.fast.held[key])
    if not holdings.rest.learn_room(label.above):
        holdings.rest.not_known(key)
        return
    size = slow.tier.size(key)
    listed = label.listed and key not in space.blocks
    above_start = awake.start if awake is not None else row.start if row is not None else 0
    resting.add(
        Row(
            key,
            space,
            label.above,
            size,
            0 if label.state else label.at + above_start,
            0,
            STATE * label.state | NAMELESS * label.nameless | LISTED * listed,
            math.inf if left == math.inf else time.monotonic() + left,
        ),
        label.name,
    )
    space.bytes += size
    if awake is not None:
        holdings.rest.add_kids_of(awake, 1)
        if label.state and holdings.rest.wake(key) is None and key in resting:
            holdings.rest.drop(key)  # without memory to know it, it goes
    elif row is not None:
        resting.add_kids(row.key, 1)
        if label.state:
            resting.flag(row.key, HAS_STATE, on=True)


def _replace(holdings: Holdings, space: Namespace, name: str) -> None:
    """Whatever is known under an id gives way to what another process has stored under it."""
    former = space.names.get(name)
    if former is not None:
        _replaced(holdings, former)
    found = holdings.resting.named(space, name) if space.resting else None
    if found is not None:
        row = found[0]
        if row.kids:
            holdings.resting.unname(row.key)
        else:
            holdings.rest.drop(row.key)


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
    if entry.resting_kids:
        for row in holdings.resting.kids(entry.key):
            holdings.rest.lose(row.key)
    if entry not in slow:
        return
    slow.drop(entry)
    holdings.useless.append(entry.key)  # what it continued is gone, if it is not so itself
    if entry not in holdings.fast:
        holdings.forget(entry)
    elif entry.is_leaf:
        holdings.discard(entry)
    elif entry.name is not None:
        holdings.unname(entry)

"""Rows of entries at rest, against a dictionary; most of them leave again."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from transom.memory.entry import Namespace
from transom.memory.entry_header import NAMELESS, EntryHeader
from transom.memory.resting import Resting
from transom.memory.row import Row


def header(key: int) -> bytes:
    """A header as the tier would have it: every context has the id of its key."""
    plain = EntryHeader("", str(key), False, False, False, 2, 0, 0, 0.0, 0.0, math.inf, 0)
    return plain.pack()


def in_order(resting: Resting) -> list[int]:
    """The keys in the order in which they would leave."""
    keys: list[int] = []
    assert resting.oldest(lambda row: bool(keys.append(row.key))) is None
    return keys


def check(resting: Resting, model: dict[int, Row], space: Namespace) -> None:
    assert {row.key: row for row in resting} == model
    assert in_order(resting) == [key for key, row in model.items() if not row.kids]
    assert space.resting == sum(row.named for row in model.values())
    for key, row in model.items():
        found = resting.named(space, str(key))
        assert (found is not None) == row.named
        assert found is None or found[0] == row
        assert resting.get(key) == row


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), expire=st.booleans())
def test_like_a_dictionary_however_many_leave(seed: int, expire: bool) -> None:
    chance = random.Random(seed)
    resting, space = Resting(SimpleNamespace(header=header)), Namespace("", 0, 0)
    model: dict[int, Row] = {}
    for _ in range(3):
        for key in chance.sample(range(1, 2000), 400):
            if key in model:
                continue
            flags = NAMELESS * (chance.random() < 0.3)
            expires = chance.choice([math.inf, 1.0, 9.0]) if expire and key % 3 else math.inf
            row = Row(key, space, 0, key, 0, int(chance.random() < 0.2), flags, expires)
            resting.add(row, str(key))
            model[key] = row
        check(resting, model, space)
        full = resting.nbytes
        leaving = chance.sample(sorted(model), len(model) - chance.randrange(3, 30))
        for at, key in enumerate(leaving):
            assert resting.forget(key) == model.pop(key)
            if at % 50 == 0:
                check(resting, model, space)
        check(resting, model, space)
        assert resting.nbytes < full / 2
    expired = {row.key for row in resting.expired(5.0)}
    assert expired == {key for key, row in model.items() if row.expires <= 5}

"""Every policy evicts what its plain and slow counterpart does, with sizes, pins and removals."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.plain_eviction import PLAIN, Counts
from transom.memory.eviction import Newcomer, WTinyLFU, eviction, known

KEYS = st.integers(0, 14)
SIZES = st.integers(1, 40)
COSTS = st.sampled_from((0.0, 0.25, 1.0, 3.0, 8.0))
USES = st.tuples(st.just("use"), KEYS, SIZES, COSTS)
STEPS = st.lists(
    st.one_of(
        USES,
        USES,
        USES,
        st.tuples(st.sampled_from(("pin", "unpin", "remove")), KEYS, SIZES, COSTS),
    ),
    max_size=200,
)


def test_every_policy_has_a_counterpart() -> None:
    assert set(PLAIN) == set(known())


@pytest.mark.parametrize("name", sorted(PLAIN))
@settings(max_examples=150)
@given(capacity=st.sampled_from((40, 64, 100, 1000)), steps=STEPS)
def test_it_evicts_what_the_plain_one_does(name: str, capacity: int, steps: Any) -> None:
    compare(name, capacity, steps)


@pytest.mark.parametrize("name", sorted(PLAIN))
@settings(max_examples=150)
@given(capacity=st.integers(1, 10), keys=st.lists(KEYS, max_size=300))
def test_it_evicts_what_the_plain_one_does_with_equal_sizes(
    name: str, capacity: int, keys: Any
) -> None:
    compare(name, capacity, [("use", key, 1, 1.0) for key in keys])


@pytest.mark.parametrize("name", sorted(PLAIN))
@pytest.mark.parametrize(("largest", "capacity"), [(1, 12), (30, 186), (30, 700), (4, 200)])
def test_it_evicts_what_the_plain_one_does_for_long(name: str, largest: int, capacity: int) -> None:
    """Loops, favourites and random keys in turn, so that adaptive policies adapt both ways."""
    random = Random(largest)
    steps: list[Any] = []
    for phase in range(40):
        keys = random.choice((1, 2, 4)) * capacity // largest
        for at in range(60):
            key = (at % keys, min(random.randrange(keys) for _ in range(3)), phase * 60 + at)
            what = random.choice(("use",) * 12 + ("pin", "unpin", "unpin", "remove"))
            one = key[random.choice((0, 1, 1, 2)) if phase % 2 else phase // 2 % 3]
            steps.append((what, one, random.randint(1, largest), random.choice((0.5, 1.0, 2.0))))
    compare(name, capacity, steps)


def compare(name: str, capacity: int, steps: Any) -> None:
    policy, plain = eviction(name, capacity), PLAIN[name](capacity)
    if isinstance(policy, WTinyLFU):
        policy._sketch = Counts()  # type: ignore[assignment]  # the sketch has tests of its own
    for step, key, size, cost in steps:
        if step == "use":
            use(policy, plain, Newcomer(key, size, cost))
        elif key not in policy:
            continue
        elif step == "pin":
            policy.pin(key)
            plain.pins[key] += 1
        elif step == "unpin" and plain.pins[key]:
            policy.unpin(key)
            plain.pins[key] -= 1
        elif step == "remove":
            policy.remove(key)
            plain.remove(key, evicted=False)
        assert policy.bytes == plain.bytes <= capacity
        assert len(policy) == len(plain.sizes)


def use(policy: Any, plain: Any, new: Newcomer) -> None:
    if new.key in policy:
        policy.touch(new.key)
        plain.touch(new.key)
        return
    if new.size > policy.capacity:
        return
    while policy.bytes + new.size > policy.capacity:
        victim = policy.victim(new)
        assert victim == plain.victim(new)
        if victim is None or victim == new.key:
            return
        policy.remove(victim, evicted=True)
        plain.remove(victim, evicted=True)
    policy.add(*new)
    plain.add(*new)

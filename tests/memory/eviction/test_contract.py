"""What every eviction policy must do. The suite runs over every policy in the registry."""

from __future__ import annotations

import sys
import tracemalloc
from collections import Counter
from collections.abc import Hashable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from transom.errors import InputError
from transom.memory.eviction import Eviction, Newcomer, eviction, known

NAMES = sorted(known())
STEPS = st.lists(
    st.tuples(
        st.sampled_from(("add", "add", "add", "touch", "pin", "unpin", "remove", "evict")),
        st.integers(0, 9),
        st.integers(1, 50),
    ),
    max_size=120,
)


@pytest.mark.parametrize("name", NAMES)
@given(
    capacity=st.sampled_from((100, 2000)),
    steps=STEPS,
    refused=st.sets(st.integers(0, 9), max_size=3),
)
@example(capacity=100, steps=[("add", 0, 1), ("touch", 0, 1), ("touch", 0, 1)], refused=set())
def test_victims_are_held_and_free(name: str, capacity: int, steps: Any, refused: set[int]) -> None:
    policy = eviction(name, capacity)
    sizes: dict[Hashable, int] = {}
    pins: Counter[Hashable] = Counter()
    for step, key, size in steps:
        if step == "add" and key not in sizes:
            policy.add(key, size, cost=float(size))
            sizes[key] = size
        elif step == "evict":
            free = {one for one in sizes if not pins[one]} - refused
            new = Newcomer(key, size) if key not in sizes else None
            victim = policy.victim(new, lambda one: one not in refused)
            if new is not None and victim == new.key:
                continue
            assert victim in free if free else victim is None
            if free:
                policy.remove(victim, evicted=True)
                del sizes[victim], pins[victim]
        elif key in sizes and step == "touch":
            policy.touch(key)
        elif key in sizes and step == "pin":
            policy.pin(key)
            pins[key] += 1
        elif step == "unpin" and pins[key]:
            policy.unpin(key)
            pins[key] -= 1
        elif key in sizes and step == "remove":
            policy.remove(key)
            del sizes[key], pins[key]
        assert policy.bytes == sum(sizes.values())
        assert len(policy) == len(sizes)
        assert all((one in policy) == (one in sizes) for one in range(10))
    for key, count in pins.items():
        for _ in range(count):
            policy.unpin(key)
    gone = set()
    while (victim := policy.victim()) is not None:
        policy.remove(victim, evicted=True)
        gone.add(victim)
    assert gone == set(sizes)
    assert policy.bytes == len(policy) == 0


@pytest.mark.parametrize("name", NAMES)
def test_keys_may_be_anything_hashable(name: str) -> None:
    policy = eviction(name, 30)
    keys: list[Hashable] = ["alice", 7, b"\x00", (1, "two"), None]
    for key in keys:
        policy.add(key, 10)
        policy.touch(key)
    policy.pin("alice")
    for key in keys[1:]:
        policy.pin(key)
        policy.unpin(key)
    gone = []
    while len(policy) > 1:
        gone.append(policy.victim())
        policy.remove(gone[-1], evicted=True)
    assert set(gone) == set(keys[1:])


@pytest.mark.parametrize("name", NAMES)
def test_chains_leave_from_their_ends(name: str) -> None:
    policy = eviction(name, 100)
    for block in range(10):
        policy.add(block, 10)
        if block:
            policy.pin(block - 1)
    for block in reversed(range(10)):
        policy.touch(block)
    for block in reversed(range(10)):
        assert policy.victim() == block
        policy.remove(block, evicted=True)
        if block:
            policy.unpin(block - 1)


class Counted:
    """A key that counts how often any key is looked up."""

    looked_up = 0

    def __hash__(self) -> int:
        Counted.looked_up += 1
        return id(self) // 16


@pytest.mark.parametrize("name", NAMES)
def test_pinned_keys_cost_nothing(name: str) -> None:
    policy = eviction(name, 10_000)
    for _ in range(9_000):
        policy.add(key := Counted(), 1)
        policy.pin(key)
        policy.touch(key)
    policy.victim()  # passes over the pinned keys once
    Counted.looked_up = 0
    for _ in range(3_000):
        if policy.bytes == policy.capacity:
            victim = policy.victim()
            assert victim is not None
            policy.remove(victim, evicted=True)
        policy.add(Counted(), 1)
    assert policy.bytes == 10_000
    assert Counted.looked_up < 30 * 3_000 + 20_000  # all keys may be sorted again a few times


@pytest.mark.parametrize("name", NAMES)
def test_invalid_calls_are_refused(name: str) -> None:
    policy = eviction(name, 100)
    policy.add("a", 10)
    with pytest.raises(InputError, match="'a' is added, but it is held already"):
        policy.add("a", 10)
    with pytest.raises(InputError, match="'a' is unpinned more often than it was pinned"):
        policy.unpin("a")
    for call in (policy.touch, policy.pin, policy.unpin, policy.remove):
        with pytest.raises(InputError, match=r"'b' is .*, but it is not held"):
            call("b")
    assert "1 keys, 10 of 100 bytes" in repr(policy)
    for capacity in (0, -1, 1.5, True, "10"):
        with pytest.raises(InputError, match="capacity"):
            eviction(name, capacity)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_bounded_and_counted(name: str) -> None:
    held = 2_000
    tracemalloc.start()
    try:
        policy = eviction(name, held * 1_000)
        sizes = []
        for turn in range(15 * held):
            while policy.bytes + 1_000 > policy.capacity:
                policy.remove(policy.victim(), evicted=True)
            key = f"context {turn}"
            policy.add(key, 990 + turn % 10, turn / 1e6)
            policy.touch(key)
            if turn % (5 * held) == 5 * held - 1:
                sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert max(sizes) < 1.2 * sizes[0]
    keys = len(policy) * sys.getsizeof("context 20000")
    assert sizes[-1] < 1.05 * (policy.nbytes + keys)
    assert policy.nbytes + keys < 1.6 * sizes[-1]


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(InputError, match="unknown eviction 'mru'; known: lru, arc, lfu-da"):
        eviction("mru", 100)
    assert all(kind.name == name and kind.summary for name, kind in known().items())
    assert all(issubclass(kind, Eviction) for kind in known().values())

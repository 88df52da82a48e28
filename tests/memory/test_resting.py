"""Entries that are on disk only: they take few bytes of memory, and make room for new ones."""

from __future__ import annotations

import re
import time
import tracemalloc

import numpy as np
import pytest

from transom.errors import InputError
from transom.memory import ContextMemoryManager


def opened(folder, max_memory=2**18, **settings):
    settings = {"max_disk": 2**26, "vocab_size": 50_000, "block_size": 64} | settings
    return ContextMemoryManager(max_memory, disk=folder / "store", **settings)


def ids(number: int, size: int = 300) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 50_000, size)


def right(manager: ContextMemoryManager, number: int, size: int = 300) -> bool:
    found = manager.get_context(str(number))
    return found is not None and np.array_equal(found, ids(number, size))


@pytest.mark.parametrize("write", ["through", "back"])
def test_a_small_memory_does_not_limit_a_large_disk(tmp_path, write):
    with opened(tmp_path, write=write) as manager:
        for number in range(1500):
            assert manager.add_context(str(number), ids(number)), manager.refusal
        stats = manager.stats()
        assert stats.refused == 0
        assert stats.tiers[0].peak <= 2**18
        assert 500 < stats.contexts < 1500
        assert all(right(manager, number) for number in range(1499, 1100, -1))
        assert manager.verify().ok
        known = len(manager)
    with opened(tmp_path, write=write) as manager:
        assert len(manager) > known // 2
        assert len(manager) + manager.stats().unknown == known
        # The newest contexts are known, and old ones are evicted for new ones again.
        assert all(right(manager, number) for number in range(1499, 1300, -1))
        assert all(manager.add_context(str(n), ids(n)) for n in range(2000, 2300))
        assert all(right(manager, number) for number in range(2299, 2200, -1))
        assert manager.verify().ok
    with opened(tmp_path, max_memory=2**24) as manager:
        assert manager.stats().unknown == 0
        assert manager.verify().ok


def test_unknown_entries_make_room_on_the_disk(tmp_path):
    with opened(tmp_path, max_memory=2**23, max_disk=2**21) as manager:
        number = 0
        while not manager.stats().tiers[1].evicted:
            assert manager.add_context(str(number), ids(number))
            number += 1
    with opened(tmp_path, max_memory=256_000, max_disk=2**21) as manager:
        unknown = manager.stats().unknown
        assert unknown > 1000
        for new in range(10_000, 10_300):
            assert manager.add_context(str(new), ids(new))
        assert manager.stats().unknown < unknown
        assert right(manager, 10_299)
        assert manager.verify().ok
        assert manager.evict(10**9) > 0
        assert len(manager) == manager.stats().unknown == 0


def test_bytes_of_a_context_on_disk(tmp_path):
    count = 5000
    with opened(tmp_path, max_memory=2**26) as manager:
        for number in range(count):
            assert manager.add_context(f"tenant/{number}", [number, 1, 2])
    with opened(tmp_path, max_memory=2**26) as empty:
        empty.stats()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    with opened(tmp_path, max_memory=2**26) as manager:
        traced = (tracemalloc.get_traced_memory()[0] - before) / count
        tracemalloc.stop()
        counted = manager.stats().bytes / count
        assert len(manager) == count
        assert traced < 150
        assert 0.95 < counted / traced < 1.1
        # An entry that was read goes back to rest.
        for number in range(0, count, 7):
            assert manager.get_context(f"tenant/{number}").tolist() == [number, 1, 2]
        assert manager.verify().ok


def test_resting_contexts_are_found_continued_and_removed(tmp_path):
    common = ids(1, 640)
    longer = np.concatenate([common, ids(2, 100)])
    with opened(tmp_path, max_memory=2**23) as manager:
        assert manager.add_context("common", common, state=b"state of it", cost=2.0)
        assert manager.add_context("longer", longer)
        assert manager.add_context("other", common, namespace="tenant")
    settings = {"max_memory": 2**23}
    with opened(tmp_path, **settings) as manager:
        assert manager.longest_prefix(longer) == ("longer", 704)
        assert "common" in manager
        assert "none" not in manager
        assert bytes(manager.get_state("common")) == b"state of it"
        assert manager.stats().states == 1
        assert manager.stats().shared == 2 * 640
        listed = {(c.namespace, c.id): (c.tokens, c.state_bytes) for c in manager.contexts()}
        assert listed == {
            ("", "common"): (640, 11),
            ("", "longer"): (740, 0),
            ("tenant", "other"): (640, 0),
        }
    with opened(tmp_path, **settings) as manager:
        assert manager.remove_context("common")  # "longer" continues it
        assert manager.get_context("longer").tolist() == longer.tolist()
        assert manager.get_state("common") is None
        assert manager.verify().ok
    with opened(tmp_path, **settings) as manager:
        assert manager.longest_prefix(common) == ("longer", 640)
        assert manager.clear(namespace="tenant") == 1
        assert [c.id for c in manager.contexts()] == ["longer"]
        assert manager.clear() == 1
        assert manager.stats().tiers[1].entries == 0
        assert manager.verify().ok


def test_a_resting_tree_of_contexts_is_evicted_from_its_ends(tmp_path):
    settings = {"max_memory": 150_000, "max_disk": 400_000}
    held = {}
    chance = np.random.default_rng(0)
    with opened(tmp_path, **settings) as manager:
        for number in range(400):
            above = held.get(str(chance.integers(max(1, number))), np.empty(0, int))
            held[str(number)] = np.concatenate([above[:640], ids(number, 100)])
            if not manager.add_context(str(number), held[str(number)]):
                del held[str(number)]
            elif number % 3 == 0:
                manager.add_state(str(number), bytes([number % 256]) * 500)
            if number % 5 == 0:
                manager.remove_context(str(chance.integers(number + 1)))
            if number % 50 == 0:
                assert manager.verify().problems == ()
        for name in [c.id for c in manager.contexts()]:
            found = manager.get_context(name)
            assert found is None or found.tolist() == held[name].tolist()
    with opened(tmp_path, **settings) as manager:
        for name in [c.id for c in manager.contexts()]:
            found = manager.get_context(name)
            assert found is None or found.tolist() == held[name].tolist()
            state = manager.get_state(name)
            assert state is None or bytes(state) == bytes([int(name) % 256]) * 500
        assert manager.verify().ok


def test_resting_contexts_expire(tmp_path):
    with opened(tmp_path, max_memory=2**22) as manager:
        for number in range(20):
            manager.add_context(str(number), ids(number), ttl=0.3 if number % 2 else None)
            manager.add_state(str(number), b"state")
    with opened(tmp_path, max_memory=2**22) as manager:
        assert len(manager) == 20
        time.sleep(0.35)
        assert len(manager) == 10
        assert manager.get_context("1") is None
        assert right(manager, 2)
        assert manager.stats().states == 10
        assert manager.verify().ok


def test_a_quota_counts_resting_contexts(tmp_path):
    with opened(tmp_path, max_memory=2**22, quotas={"poor": 6000}) as manager:
        for number in range(10):
            assert manager.add_context(str(number), ids(number, 1000), namespace="poor")
            assert manager.add_context(str(number), ids(number, 1000))
    with opened(tmp_path, max_memory=2**22, quotas={"poor": 6000}) as manager:
        assert manager.add_context("new", ids(99, 1000), namespace="poor")
        held = [c.id for c in manager.contexts() if c.namespace == "poor"]
        assert sorted(held) == ["8", "9", "new"]
        assert len(manager) == 13


def test_two_managers_with_little_memory(tmp_path):
    with opened(tmp_path, max_memory=200_000) as one, opened(tmp_path, max_memory=2**23) as other:
        for number in range(800):
            assert other.add_context(str(number), ids(number, 64))
        assert all(right(one, number, 64) for number in range(799, 700, -1))
        assert one.stats().unknown > 0
        assert one.verify().problems == ()
        for number in range(1000, 1400):
            assert one.add_context(str(number), ids(number, 64)), one.refusal
        assert right(other, 1399, 64)
        assert other.remove_context("1399")
        assert one.get_context("1399") is None
        assert one.verify().problems == other.verify().problems == ()


def continued(number: int) -> np.ndarray:
    """Tokens whose beginning is the same for five numbers in a row."""
    return np.concatenate([ids(number // 5, 1000), ids(10**6 + number, 200)])


def has(manager: ContextMemoryManager, number: int) -> bool:
    found = manager.get_context(str(number))
    assert found is None or np.array_equal(found, continued(number))
    return found is not None


@pytest.mark.parametrize("write", ["through", "back"])
def test_a_reopened_store_knows_the_newest_of_contexts_that_start_alike(tmp_path, write):
    with opened(tmp_path, max_memory=2**23, write=write) as manager:
        for number in range(3000):
            assert manager.add_context(str(number), continued(number))
    with opened(tmp_path, max_memory=2**19, write=write) as manager:
        assert manager.stats().unknown > 100
        assert all(has(manager, number) for number in range(2999, 2900, -1))
        assert sum(has(manager, number) for number in range(3000)) > 500
        assert manager.add_context("new", continued(3001))
        assert manager.verify().ok


def test_a_manager_with_little_memory_leaves_alone_what_others_know(tmp_path):
    with opened(tmp_path, max_memory=2**18) as one, opened(tmp_path, max_memory=2**23) as other:
        for number in range(1000):
            assert other.add_context(str(number), continued(number))
            if number % 100 == 0:
                assert has(one, number)
        assert one.stats().unknown > 0
        assert one.add_context("own", continued(5000)), one.refusal
        assert len(other) == 1001 == sum(has(other, number) for number in range(1000)) + 1
        assert one.verify().problems == other.verify().problems == ()


def test_entries_evicted_from_memory_rest_to_save_overhead(tmp_path):
    with opened(tmp_path, max_memory=2**24, max_disk=2**28) as manager:
        for number in range(15_000):
            assert manager.add_context(f"user/{number}", [number, 7 * number % 50_000] * 16)
        assert manager.verify().ok


@pytest.mark.parametrize("write", ["through", "back"])
@pytest.mark.parametrize("count", [1000, 2000, 3000])
def test_the_table_of_resting_entries_takes_most_of_the_memory(tmp_path, count, write):
    settings = {"max_disk": 2**28, "write": write}
    with opened(tmp_path, max_memory=2**24, **settings) as manager:
        for number in range(count):
            assert manager.add_context(str(number), ids(number, 64))
    with opened(tmp_path, **settings) as manager:
        assert len(manager) >= 64
        assert len(manager) + manager.stats().unknown == count
        assert all(right(manager, number, 64) for number in range(count - 1, count - 40, -1))
        for number in range(count, count + 200):
            assert manager.add_context(str(number), ids(number, 64)), manager.refusal
            assert right(manager, number, 64)
        assert manager.stats().tiers[0].peak <= 2**18
        assert manager.verify().ok
    with opened(tmp_path, max_memory=2**24, **settings) as manager:
        # The contexts evicted from the disk were the oldest.
        held = sorted(int(context.id) for context in manager.contexts())
        assert held == list(range(count + 200 - len(held), count + 200))
        assert len(held) >= count - 64
        assert all(right(manager, number, 64) for number in held)


def test_too_little_memory_for_a_store_is_refused_and_names_what_is_enough(tmp_path):
    with opened(tmp_path, max_memory=2**24) as manager:
        for number in range(4000):
            assert manager.add_context(str(number), ids(number, 64))
    with pytest.raises(InputError, match="hold the tables of a manager") as refused:
        opened(tmp_path)
    enough = int(re.search("at least ([0-9,]+)", str(refused.value))[1].replace(",", ""))
    with opened(tmp_path, max_memory=enough) as manager:
        assert right(manager, 3999, 64)
        assert manager.add_context("new", ids(5000, 64)), manager.refusal
        assert manager.verify().ok
    with opened(tmp_path, max_memory=2**24) as manager:
        assert 3999 <= len(manager) <= 4001
        assert right(manager, 3999, 64)


def test_unknown_contexts_can_be_replaced_and_removed(tmp_path):
    with opened(tmp_path, max_memory=2**24) as manager:
        for number in range(1500):
            assert manager.add_context(str(number), continued(number), state=b"old")
            assert manager.add_context(str(number), ids(number, 64), namespace="tenant")
    with opened(tmp_path, max_memory=2**19) as manager:
        assert manager.stats().unknown > 2000
        assert manager.get_context("0") is manager.get_context("1") is None
        assert manager.add_context("0", [1, 2, 3])
        assert manager.remove_context("0")
        assert manager.remove_context("1")
        assert not manager.remove_context("1")
        assert manager.add_context("2", [4, 5, 6], state=b"new")
        assert manager.remove_context("3", namespace="tenant")
        assert manager.verify().problems == ()
    with opened(tmp_path, max_memory=2**24) as manager:
        assert manager.get_context("0") is manager.get_context("1") is None
        assert manager.get_state("0") is manager.get_state("1") is None
        assert manager.get_context("2").tolist() == [4, 5, 6]
        assert bytes(manager.get_state("2")) == b"new"
        assert has(manager, 3)
        assert bytes(manager.get_state("3")) == b"old"
        assert manager.get_context("3", namespace="tenant") is None
        assert manager.verify().ok
    with opened(tmp_path, max_memory=2**19) as manager:
        assert manager.clear(namespace="tenant") > 1000
    with opened(tmp_path, max_memory=2**24) as manager:
        assert {context.namespace for context in manager.contexts()} == {""}
        assert len(manager) > 1000
        assert manager.verify().ok
    with opened(tmp_path, max_memory=800_000) as manager:
        assert manager.stats().unknown > 100
        assert manager.clear() > 1000
        assert manager.stats().tiers[1].entries == 0


def test_a_small_memory_goes_on_after_others_filled_and_emptied_the_store(tmp_path):
    with opened(tmp_path, max_memory=2**18) as one, opened(tmp_path, max_memory=2**24) as other:
        for number in range(5000):
            assert other.add_context(str(number), ids(number, 64))
            if number % 500 == 0:
                one.stats()
        assert other.clear() == 5000
        assert one.stats().unknown == 0
        for number in range(300):
            assert one.add_context(str(number), ids(number, 64)), one.refusal
            assert right(one, number, 64)
        assert one.stats().bytes <= 2**18
        assert one.verify().ok


def test_a_small_memory_goes_on_with_holes_on_the_disk(tmp_path):
    with opened(tmp_path, max_memory=2**24) as manager:
        for number in range(3000):
            assert manager.add_context(str(number), ids(number, 64))
        for number in range(0, 2400, 2):
            assert manager.remove_context(str(number))
    with opened(tmp_path) as manager:
        for number in range(5000, 5200):
            assert manager.add_context(str(number), ids(number, 64)), manager.refusal
            assert right(manager, number, 64)
        assert manager.stats().bytes <= 2**18


def test_what_rested_and_was_removed_gives_its_memory_back(tmp_path):
    settings = {"max_memory": 2**24, "max_disk": 2**28}
    with opened(tmp_path, **settings) as manager:
        for number in range(6000):
            ttl = 1000.0 if number % 3 == 0 else None
            assert manager.add_context(f"user/{number}", [number, 1, 2], ttl=ttl)
    with opened(tmp_path, **settings) as manager:
        large = manager.stats().bytes
        for number in range(5900):
            assert manager.remove_context(f"user/{number}")
        assert manager.stats().bytes < large / 5
        for number in range(5900, 6000):
            assert manager.get_context(f"user/{number}").tolist() == [number, 1, 2]
        for number in range(7000, 9000):
            assert manager.add_context(f"user/{number}", [number, 1, 2])
        assert manager.verify().ok

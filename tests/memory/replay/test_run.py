"""Traces through caches, against a leaf-first LRU that searches everything at every step."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transom.errors import InputError
from transom.memory.eviction import eviction, known
from transom.memory.replay import Prefill, Replay, Trace, TraceBlock, replay
from transom.memory.replay.run import Cache

PATHS = st.lists(st.integers(0, 2), max_size=5)


@st.composite
def traces(draw: Any) -> Trace:
    """Prompts with many branches; a block's key is the path that leads to it."""
    requests = []
    for path in draw(st.lists(PATHS, min_size=1, max_size=40)):
        keys = [tuple(path[: at + 1]) for at in range(len(path))]
        requests.append(tuple(TraceBlock(key, 1 + sum(key) % 3, 2, 0.5 * len(key)) for key in keys))
    return Trace("drawn", tuple(requests))


def plain_lru(trace: Trace, capacity: int) -> int:
    """The number of tokens that are hits."""
    held: dict[Any, int] = {}  # the time of the last use
    sizes = trace.sizes()
    clock = hits = 0
    for request in trace.requests:
        prefix = []
        for block in request:
            if block.key not in held:
                break
            prefix.append(block)
        hits += sum(block.tokens for block in prefix)
        for block in reversed(prefix):
            held[block.key] = clock = clock + 1
        for at in range(len(prefix), len(request)):
            key = request[at].key
            while sum(sizes[one] for one in held) + sizes[key] > capacity:
                leaves = [
                    one
                    for one in held
                    if not any(other[:-1] == one for other in held) and one != key[:-1]
                ]
                if not leaves:
                    break
                del held[min(leaves, key=held.__getitem__)]
            else:
                held[key] = clock = clock + 1
                continue
            break
    return hits


@given(traces(), st.integers(1, 40))
def test_the_default_is_leaf_first_lru(trace: Trace, capacity: int) -> None:
    cache = Cache(eviction("lru", capacity))
    for request in trace.requests:
        cache.request(request)
    assert cache.tokens_hit == plain_lru(trace, capacity)


@pytest.mark.parametrize("name", sorted(known()))
@given(trace=traces(), capacity=st.integers(1, 40))
def test_the_blocks_held_are_a_tree_within_the_capacity(
    name: str, trace: Trace, capacity: int
) -> None:
    policy = eviction(name, capacity)
    cache = Cache(policy)
    for request in trace.requests:
        cache.request(request)
        held = cache._before
        assert all(before is None or before in held for before in held.values())
        assert policy.bytes == sum(trace.sizes()[key] for key in held) <= capacity
        assert set(policy._pins) == {before for before in held.values() if before is not None}


@given(traces())
def test_without_a_limit_everything_seen_is_a_hit(trace: Trace) -> None:
    if not trace.tokens:
        return
    result = replay(trace, sorted(known()), [1.0])
    seen: set[Any] = set()
    tokens, seconds = 0, 0.0
    for request in trace.requests:
        for block in request:
            if block.key in seen:
                tokens += block.tokens
                seconds += block.seconds
            seen.add(block.key)
    assert result.infinite_hit == tokens / trace.tokens
    assert result.infinite_seconds == pytest.approx(seconds)
    assert (result.requests, result.blocks) == (len(trace.requests), len(seen))
    for run in result.runs:
        assert run == Replay(run.eviction, 1.0, result.infinite_hit, pytest.approx(seconds))


def test_runs_are_by_capacity_and_in_the_order_asked_for() -> None:
    trace = Trace("t", tuple((TraceBlock(key, 1, 1, 1.0),) for key in (1, 2, 1, 2, 3, 1)))
    steps: list[Any] = []
    result = replay(trace, ["sieve", "lru"], [0.4, 1.0], lambda *step: steps.append(step))
    assert [(run.capacity, run.eviction) for run in result.runs] == [
        (0.4, "sieve"),
        (0.4, "lru"),
        (1.0, "sieve"),
        (1.0, "lru"),
    ]
    assert result.runs[1].block_hit == 0
    assert result.infinite_hit == 0.5
    assert steps[-1][0] == 30


@pytest.mark.parametrize("part", [0, -1, float("nan"), 0.01])
def test_invalid_capacities_are_refused(part: float) -> None:
    trace = Trace("t", ((TraceBlock(1, 10, 1, 1.0),),))
    with pytest.raises(InputError, match="capacity is"):
        replay(trace, ["lru"], [part])


def test_prefill_is_the_sum_over_tokens() -> None:
    prefill = Prefill(per_token=3.0, per_pair=0.25, load=1.0)
    each = [3.0 - 1.0 + 0.25 * (at + 1) for at in range(20)]
    assert prefill.saved(0, 20) == pytest.approx(sum(each))
    assert prefill.saved(5, 12) == pytest.approx(sum(each[5:12]))
    assert Prefill(per_token=1.0, per_pair=0.0, load=2.0).saved(0, 5) == 0
    for bad in (-1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match="load"):
            Prefill(load=bad)

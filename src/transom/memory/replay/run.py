"""A trace through a cache of blocks that has an eviction policy and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import NamedTuple

from transom.errors import InputError
from transom.memory.eviction import Eviction, Newcomer, eviction
from transom.memory.replay.trace import Trace, TraceBlock

__all__ = ["Replay", "Replayed", "replay"]


class Replay(NamedTuple):
    """What came of a trace under one policy.

    Attributes:
        eviction: name of the policy.
        capacity: of the tier, as a part of what a cache without a limit would hold.
        block_hit: part of all prompt tokens that were in the longest held prefix of their prompt.
        seconds_saved: what computing them would have taken, less loading them.
    """

    eviction: str
    capacity: float
    block_hit: float
    seconds_saved: float


class Replayed(NamedTuple):
    """A trace, and what came of it under each policy at each capacity.

    Attributes:
        trace: its name.
        requests: how many there were.
        blocks: how many different ones, which is what a cache without a limit would hold.
        infinite_hit: the `block_hit` of such a cache.
        infinite_seconds: the `seconds_saved` of such a cache.
        runs: by capacity, in it by policy, in the order asked for.
    """

    trace: str
    requests: int
    blocks: int
    infinite_hit: float
    infinite_seconds: float
    runs: tuple[Replay, ...]


def replay(
    trace: Trace,
    evictions: list[str],
    capacities: list[float],
    on_request: Callable[[int, str], None] = lambda done, run: None,
) -> Replayed:
    """Put a trace through caches that evict by each of `evictions`, at each of `capacities`.

    Args:
        trace: what is asked for.
        evictions: names of policies.
        capacities: parts of what a cache without a limit would hold, above 0.
        on_request: called now and then with how many requests are done, over all runs, and the
            run they are in.

    Raises:
        InputError: on an unknown policy or a capacity that makes no sense.
    """
    sizes = trace.sizes()
    whole = sum(sizes.values())
    caches = [
        (part, eviction(name, _bytes(part, whole))) for part in capacities for name in evictions
    ]
    infinite = Cache(eviction("lru", whole))
    done = 0
    runs = []
    for part, policy in [(1.0, infinite.eviction), *caches]:
        cache = infinite if policy is infinite.eviction else Cache(policy)
        label = f"{policy.name} at {part:.3g}"
        for request in trace.requests:
            if done % 256 == 0:
                on_request(done, label)
            cache.request(request)
            done += 1
        runs.append(Replay(policy.name, part, cache.tokens_hit / trace.tokens, cache.seconds_saved))
    on_request(done, "")
    return Replayed(
        trace=trace.name,
        requests=len(trace.requests),
        blocks=len(sizes),
        infinite_hit=runs[0].block_hit,
        infinite_seconds=runs[0].seconds_saved,
        runs=tuple(runs[1:]),
    )


class Cache:
    """Which blocks are held, as a tree: each but a first one only with the one before it.

    A request uses the longest prefix that is held, and what comes after it is held from then on,
    block by block, as far as the policy makes room.
    """

    def __init__(self, eviction: Eviction) -> None:
        self.eviction = eviction
        self.tokens_hit = 0
        self.seconds_saved = 0.0
        self._before: dict[Hashable, Hashable | None] = {}

    def request(self, blocks: tuple[TraceBlock, ...]) -> None:
        """Look a prompt up, and hold what was not held of it."""
        held = 0
        for block in blocks:
            if block.key not in self._before:
                break
            held += 1
            self.tokens_hit += block.tokens
            self.seconds_saved += block.seconds
        for block in reversed(blocks[:held]):
            self.eviction.touch(block.key)
        last = None
        if held:
            last = blocks[held - 1].key
            self.eviction.pin(last)
        for block in blocks[held:]:
            if not self._hold(block, last):
                break
            last = block.key
            self.eviction.pin(last)
        if last is not None:
            self.eviction.unpin(last)

    def _hold(self, block: TraceBlock, before: Hashable | None) -> bool:
        """Hold a block after `before`, whose pin then is that of its child; whether it fits."""
        policy = self.eviction
        new = Newcomer(block.key, block.size, block.seconds)
        while policy.bytes + new.size > policy.capacity:
            victim = policy.victim(new)
            if victim is None or victim == new.key:
                return False
            policy.remove(victim, evicted=True)
            parent = self._before.pop(victim)
            if parent is not None:
                policy.unpin(parent)
        policy.add(*new)
        self._before[block.key] = before
        return True


def _bytes(part: float, whole: int) -> int:
    if not 1 <= part * whole < math.inf:
        raise InputError(
            f"capacity is {part} of the {whole:,} that a cache without a limit holds; expected "
            f"at least {1 / whole:.2g}, which is room for one, and a finite number."
        )
    return int(part * whole)

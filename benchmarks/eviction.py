"""Which eviction policy hits most on real requests, and what each costs per block.

1. Tokens hit and seconds saved on Mooncake's conversation trace (12,031 requests, 512-token
   blocks) at 2, 5, 10 and 20 % of what a cache without a limit holds, beside a cache that knows
   the future; and time per request;
2. a use, and an eviction with what takes its place, among 100,000 keys, per policy, against
   cachetools' LRU; and the same when nine in ten of the keys are pinned.

The trace is `mooncake_conversation.jsonl` of https://github.com/kvcache-ai/Mooncake, beside the
repository in `shared/data`, or where TRANSOM_TRACE says; without it 1 is left out. The peer is not
a dependency: `pip install cachetools`.

Run `python benchmarks/eviction.py`, or with the numbers of the claims to run.
"""

from __future__ import annotations

import os
import random
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from _measure import interleaved, run_claims
from cachetools import LRUCache

from transom.memory.eviction import Eviction, Newcomer, eviction, known
from transom.memory.eviction.order import Order
from transom.memory.replay import Replay, Trace, read_trace, replay
from transom.memory.replay.run import Cache

ROOT = Path(__file__).resolve().parents[1]
TRACE = Path(
    os.environ.get("TRANSOM_TRACE", ROOT.parent / "shared/data/mooncake_conversation.jsonl")
)
PARTS = [0.02, 0.05, 0.1, 0.2]
KEYS = 100_000
STEPS = 2_000


def mooncake() -> dict[str, Any]:
    if not TRACE.exists():
        return {"claim": f"the trace is not there: {TRACE}"}
    trace = read_trace(TRACE)
    result = replay(trace, list(known()), PARTS)

    def by_part(value: Callable[[Replay], float]) -> dict[str, dict[str, float]]:
        return {
            f"{part:g}": {run.eviction: value(run) for run in result.runs if run.capacity == part}
            for part in PARTS
        }

    microseconds = {}
    blocks = result.blocks
    for name in known():
        cache = Cache(eviction(name, blocks // 10))
        began = time.perf_counter()
        for request in trace.requests:
            cache.request(request)
        microseconds[name] = (time.perf_counter() - began) / len(trace.requests) * 1e6
    return {
        "claim": "block token-hit at 10 % of the infinite capacity: lru >= 0.284, best >= 0.294",
        "requests": result.requests,
        "blocks": blocks,
        "infinite hit": result.infinite_hit,
        "block hit": by_part(lambda run: round(run.block_hit, 4)),
        "block hit of a cache that knows the future": {
            f"{part:g}": round(limit(trace, int(part * blocks)), 4) for part in PARTS
        },
        "seconds saved, of what an infinite cache saves": by_part(
            lambda run: round(run.seconds_saved / result.infinite_seconds, 3)
        ),
        "microseconds per request of 24 blocks, replay included": {
            name: round(value, 1) for name, value in microseconds.items()
        },
    }


class Clairvoyant(Eviction):
    """What is asked for last, or never, leaves first or is not let in: the limit, after Belady."""

    name = "clairvoyant"
    summary = "knows the future"

    def __init__(self, capacity: int, trace: Trace) -> None:
        super().__init__(capacity)
        self.now = 0
        self._order = Order(self._pins)
        self._asked: dict[Any, list[int]] = defaultdict(list)
        for at, request in enumerate(trace.requests):
            for block in request:
                self._asked[block.key].append(at)

    def _next(self, key: Any) -> int:
        asked = self._asked[key]
        at = bisect_right(asked, self.now)
        return asked[at] if at < len(asked) else 10**9

    def _rank(self, key: Any) -> tuple[int, int]:
        return (-self._next(key), key)

    def _add(self, key: Any, size: int, cost: float) -> None:
        self._order.put(key, self._rank(key))

    def _touch(self, key: Any) -> None:
        self._order.put(key, self._rank(key))

    def _unpinned(self, key: Any) -> None:
        self._order.unpinned(key)

    def _victim(self, newcomer: Newcomer | None, may_go: Any) -> Any:
        key = self._order.first(may_go)
        if newcomer is not None and (key is None or self._next(newcomer.key) >= self._next(key)):
            return newcomer.key
        return key

    def _remove(self, key: Any, size: int, evicted: bool) -> None:
        self._order.discard(key)


def limit(trace: Trace, capacity: int) -> float:
    policy = Clairvoyant(capacity, trace)
    cache = Cache(policy)
    for policy.now, request in enumerate(trace.requests):
        cache.request(request)
    return cache.tokens_hit / trace.tokens


def filled(name: str, pinned: int) -> Eviction:
    policy = eviction(name, KEYS)
    for key in range(KEYS):
        policy.add(key, 1, 1.0)
        if key % 10 < pinned:
            policy.pin(key)
    return policy


def using(policy: Eviction, keys: list[int]) -> Callable[[], None]:
    def use() -> None:
        for key in keys:
            policy.touch(key)

    return use


def evicting(policy: Eviction) -> Callable[[], None]:
    fresh = iter(range(KEYS, 10**9))

    def evict() -> None:
        for _ in range(STEPS):
            policy.remove(policy.victim(), evicted=True)
            policy.add(next(fresh), 1, 1.0)

    return evict


def operations() -> dict[str, Any]:
    chance = random.Random(0)
    steps: dict[str, Callable[[], None]] = {}
    for name in known():
        for label, pinned in (("", 0), (", 9 in 10 pinned", 9)):
            some = chance.sample(range(KEYS), STEPS)
            steps[f"{name}{label}: use"] = using(filled(name, pinned), some)
            steps[f"{name}{label}: evict"] = evicting(filled(name, pinned))
    peer: LRUCache[int, int] = LRUCache(KEYS)
    used: LRUCache[int, int] = LRUCache(KEYS)
    for key in range(KEYS):
        peer[key] = used[key] = key
    fresh = iter(range(KEYS, 10**9))
    some = chance.sample(range(KEYS), STEPS)

    def peer_uses() -> None:
        for key in some:
            used.get(key)

    def peer_evicts() -> None:
        for _ in range(STEPS):
            peer[next(fresh)] = 0

    steps["cachetools: use"] = peer_uses
    steps["cachetools: evict"] = peer_evicts
    seconds = interleaved(steps, 11, warm=3)
    return {
        "claim": "an eviction takes as long with ninety thousand pinned keys as with none",
        "microseconds": {
            name: round(median(values) / STEPS * 1e6, 2) for name, values in seconds.items()
        },
    }


if __name__ == "__main__":
    run_claims("eviction", (mooncake, operations))

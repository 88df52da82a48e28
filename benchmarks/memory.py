"""Many contexts under one budget cost little beside their bytes, in memory and on disk.

1. 100,000 contexts of 2 to 64 KB in memory: put and get against cachetools with numpy arrays, bytes
   per token (as counted, and as the system shows), against a dictionary of lists;
2. 20,000 of them on disk: put and get against diskcache and blobs in SQLite;
3. KV states of 94 MB: durable write against write + fsync, checked read against a plain read, both
   against diskcache;
4. the requests of a public trace through the manager, with a tenth of the memory that all would
   take: hits, and time per request, by eviction policy;
5. bytes over budget while contexts come and go: in the books, as the system shows, on disk;
6. opening a store of 100,000 contexts, also after a kill, and also without its index.

Run `python benchmarks/memory.py`, or with the numbers of the claims to run: `... memory.py 1 3`.
The trace is `mooncake_conversation.jsonl` of https://github.com/kvcache-ai/Mooncake, beside the
repository in `shared/data`, or where TRANSOM_TRACE says; without it 4 is left out. Peers are not
dependencies: `pip install cachetools diskcache`. Needs 8 GB of memory and 12 GB of disk.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from _measure import interleaved, ratio, run_claims

from transom import ContextMemoryManager
from transom.memory.tiers.disk import DiskTier

VOCABULARY = 49_152
COUNT = 100_000
BATCH = 500
STATE = 94_000_000
ROOT = Path(__file__).resolve().parents[1]
TRACE = Path(
    os.environ.get("TRANSOM_TRACE", ROOT.parent / "shared/data/mooncake_conversation.jsonl")
)
SOURCE = np.random.default_rng(0).integers(0, VOCABULARY, 40_000, dtype=np.uint16)
SIZES = np.random.default_rng(1).integers(1024, 32_769, COUNT)  # tokens: 2 to 64 KB


def context(number: int) -> np.ndarray:
    """A context that starts like no other."""
    ids = SOURCE[: SIZES[number]].copy()
    ids[0], ids[1] = number % VOCABULARY, number // VOCABULARY
    return ids


@contextmanager
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="transom-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def anonymous() -> int:
    """Bytes of memory that are the process's own, as the system shows."""
    with open("/proc/self/smaps_rollup") as file:
        for line in file:
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) * 1024
    raise RuntimeError("no Anonymous line in smaps_rollup")


def in_turns(
    steps: dict[str, Callable[[int], object]], count: int, order: np.ndarray | None = None
) -> dict[str, list[float]]:
    """Seconds per call of each step over `count` contexts, in turns of `BATCH`."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    numbers = np.arange(count) if order is None else order
    for first in range(0, count, BATCH):
        batch = numbers[first : first + BATCH].tolist()
        for name, step in steps.items():
            start = time.perf_counter()
            for number in batch:
                step(number)
            seconds[name].append((time.perf_counter() - start) / len(batch))
    return seconds


def against(seconds: dict[str, list[float]], ours: str) -> dict[str, Any]:
    """How many times as fast ours is, and calls per second."""
    return {
        "ratio": {name: ratio(seconds, name, ours) for name in seconds if name != ours},
        "calls_per_second": {name: round(1 / median(s)) for name, s in seconds.items()},
    }


def in_memory() -> dict[str, Any]:
    import cachetools

    keys = [f"tenant/{number}" for number in range(COUNT)]
    contexts = [context(number) for number in range(2 * BATCH)]
    tokens = int(SIZES.sum())

    def ids(number: int) -> np.ndarray:
        array = contexts[number % len(contexts)]
        array[0], array[1] = number % VOCABULARY, number // VOCABULARY
        return array[: SIZES[number % len(contexts)]]

    held = int(SIZES[: len(contexts)].sum()) * (COUNT // len(contexts))
    before = anonymous()
    manager = ContextMemoryManager(6 * 2**30, vocab_size=VOCABULARY)
    for number in range(COUNT):
        assert manager.add_context(keys[number], ids(number))
    shown = anonymous() - before
    counted = manager.stats()
    assert counted.contexts == COUNT
    assert counted.tokens == held
    assert not counted.shared
    manager.close()
    del manager

    manager = ContextMemoryManager(6 * 2**30, vocab_size=VOCABULARY)
    cache: Any = cachetools.LRUCache(6 * 2**30, getsizeof=lambda array: array.nbytes)

    def put(number: int) -> None:
        cache[keys[number]] = ids(number).copy()

    puts = in_turns(
        {
            "transom": lambda n: manager.add_context(keys[n], ids(n)),
            "cachetools": put,
        },
        COUNT,
    )
    again = in_turns(
        {
            "transom": lambda n: manager.add_context(keys[n], ids(n)),
            "cachetools": put,
        },
        COUNT // 4,
    )
    order = np.random.default_rng(2).permutation(COUNT)
    gets = in_turns(
        {
            "transom": lambda n: manager.get_context(keys[n]),
            "cachetools, copied": lambda n: cache[keys[n]].copy(),
            "cachetools, the array itself": lambda n: cache[keys[n]],
        },
        COUNT,
        order,
    )
    lists = {number: context(number).tolist() for number in range(200)}
    list_bytes = sum(sys.getsizeof(ids) + 32 * len(ids) for ids in lists.values())
    return {
        "claim": "puts and gets per second over cachetools (goal >= 1), bytes per token (<= 2.1)",
        "put": against(puts, "transom"),
        "put in place of another": against(again, "transom"),
        "get": against(gets, "transom"),
        "bytes_per_token": {
            "counted": counted.bytes / held,
            "as the system shows": shown / held,
            "a dictionary of lists": list_bytes / int(SIZES[:200].sum()),
        },
        "counted_over_shown": counted.bytes / shown,
        "contexts": COUNT,
        "tokens_of_all_sizes": tokens,
    }


def on_disk() -> dict[str, Any]:
    import diskcache

    count = 20_000
    keys = [f"tenant/{number}" for number in range(count)]
    contexts = [context(number) for number in range(count)]
    with folder() as path:
        tier = DiskTier(path / "tier", 2**34)
        manager = ContextMemoryManager(
            2**26, disk=path / "manager", max_disk=2**34, vocab_size=VOCABULARY
        )
        cache = diskcache.Cache(str(path / "diskcache"), size_limit=2**40)
        table = sqlite3.connect(path / "blobs.sqlite", isolation_level=None)
        table.execute("pragma journal_mode=wal")
        table.execute("pragma synchronous=normal")
        table.execute("create table contexts (id text primary key, ids blob)")
        insert = "insert or replace into contexts values (?, ?)"
        select = "select ids from contexts where id = ?"
        puts = in_turns(
            {
                "transom": lambda n: tier.store(n + 1, contexts[n], b"label"),
                "transom, whole manager": lambda n: manager.add_context(keys[n], contexts[n]),
                "diskcache": lambda n: cache.set(keys[n], contexts[n].tobytes()),
                "SQLite": lambda n: table.execute(insert, (keys[n], contexts[n].data)),
            },
            count,
        )
        order = np.random.default_rng(2).permutation(count)
        gets = in_turns(
            {
                "transom": lambda n: tier[n + 1],
                "transom, whole manager": lambda n: manager.get_context(keys[n]),
                "diskcache": lambda n: cache.get(keys[n]),
                "SQLite": lambda n: table.execute(select, (keys[n],)).fetchone(),
            },
            count,
            order,
        )
        assert (tier[7].view(np.uint16) == contexts[6]).all()
        manager.close()
        tier.close()
        cache.close()
        table.close()
    return {
        "claim": "puts and gets per second over diskcache and SQLite blobs (goal >= 5)",
        "put": against(puts, "transom"),
        "get": against(gets, "transom"),
        "contexts": count,
    }


def states() -> dict[str, Any]:
    import diskcache

    data = np.random.default_rng(0).bytes(STATE)
    with folder() as path:
        tier = DiskTier(path / "tier", 2**34)
        cache = diskcache.Cache(str(path / "diskcache"), size_limit=2**40)
        raw, turn = path / "raw", iter(range(10**6))

        def write_raw() -> None:
            raw.unlink(missing_ok=True)
            with raw.open("wb", buffering=0) as file:
                file.write(data)
                os.fsync(file.fileno())

        def write() -> None:
            tier.clear()
            tier.store(next(turn) + 1, data)

        def read() -> None:
            (key,) = tier
            tier[key]

        def read_raw() -> None:
            with raw.open("rb", buffering=0) as file:
                file.read()

        def copied() -> None:
            (key,) = tier
            tier[key].tobytes()

        writes = interleaved(
            {
                "transom": write,
                "write + fsync": write_raw,
                "diskcache": lambda: cache.set("state", data),
            },
            9,
            warm=2,
        )
        reads = interleaved(
            {
                "transom": read,
                "transom, copied": copied,
                "read": read_raw,
                "diskcache": lambda: cache.get("state"),
            },
            9,
            warm=2,
        )
        tier.close()
        cache.close()
    return {
        "claim": "94 MB: durable write over write + fsync (goal >= 0.8), checked read over read "
        "(>= 0.4), both over diskcache (>= 3)",
        "write": {name: ratio(writes, name, "transom") for name in ("write + fsync", "diskcache")},
        "read": {name: ratio(reads, name, "transom") for name in ("read", "diskcache")},
        "read and copied": {
            name: ratio(reads, name, "transom, copied") for name in ("read", "diskcache")
        },
        "seconds": {
            "write": {name: median(s) for name, s in writes.items()},
            "read": {name: median(s) for name, s in reads.items()},
        },
    }


def trace() -> dict[str, Any]:
    if not TRACE.exists():
        return {"claim": f"the trace is not there: {TRACE}"}
    block = 512
    requests = [json.loads(line) for line in TRACE.read_text().splitlines()]

    def tokens(hashes: list[int], length: int) -> np.ndarray:
        ids = np.empty((len(hashes), block), dtype=np.uint16)
        ids[:] = SOURCE[:block]
        numbers = np.asarray(hashes)
        ids[:, 0], ids[:, 1] = numbers % VOCABULARY, numbers // VOCABULARY
        return ids.reshape(-1)

    prompts = [tokens(r["hash_ids"], r["input_length"]) for r in requests]
    lengths = [r["input_length"] for r in requests]

    def run(max_memory: int, eviction: str) -> tuple[float, float, float, float, Any]:
        manager = ContextMemoryManager(
            max_memory, vocab_size=VOCABULARY, block_size=block, eviction=eviction
        )
        hit = blocks = 0
        seconds = []
        for number, (ids, length) in enumerate(zip(prompts, lengths, strict=True)):
            start = time.perf_counter()
            found = manager.longest_prefix(ids)
            manager.add_context(str(number), ids)
            seconds.append(time.perf_counter() - start)
            if found is not None:
                hit += min(found[1], length)
                blocks += found[1] // block
        count = sum(len(ids) for ids in prompts) // block
        stats = manager.stats()
        mean, middle = sum(seconds) / len(seconds), median(seconds)
        return hit / sum(lengths), blocks / count, mean, middle, stats

    infinite = run(2**32, "lru")
    whole = infinite[-1].bytes
    result: dict[str, Any] = {
        "claim": "hits with a tenth of the memory (goal >= 0.284 lru, >= 0.294 best), "
        "microseconds per request (< 50)",
        "requests": len(requests),
        "infinite": {"token_hit": infinite[0], "block_hit": infinite[1], "bytes": whole},
    }
    for eviction in (
        "lru",
        "arc",
        "lfu-da",
        "greedy-dual",
        "s3-fifo",
        "sieve",
        "w-tinylfu",
        "reuse-odds",
    ):
        token_hit, block_hit, mean, middle, stats = run(whole // 10, eviction)
        result[eviction] = {
            "token_hit": token_hit,
            "block_hit": block_hit,
            "microseconds_per_request": {"mean": 1e6 * mean, "median": 1e6 * middle},
            "peak_over_budget": stats.tiers[0].peak / stats.tiers[0].capacity,
        }
    return result


CHURN = """
import os, random, sys, threading, time
import numpy as np
sys.path.insert(0, sys.argv[3])
from memory import anonymous, context
from transom import ContextMemoryManager
budget, folder = int(sys.argv[1]), sys.argv[2]
ids = [context(number) for number in range(3000)]
before = anonymous()
manager = ContextMemoryManager(budget, vocab_size=49152, disk=folder or None,
                               max_disk=4 * budget if folder else None)
shown, written, going = 0, 0, True
def watch():
    global shown, written
    while going:
        shown = max(shown, anonymous() - before)
        if folder:
            found = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]
            size = 0
            for path in found:
                try:
                    size += os.stat(path).st_blocks * 512
                except FileNotFoundError:
                    pass
            written = max(written, size)
        time.sleep(0.02)
watcher = threading.Thread(target=watch)
watcher.start()
chance = random.Random(0)
while manager.stats().tiers[0].evicted < 20_000:
    for _ in range(500):
        number = chance.randrange(3000)
        if chance.random() < 0.3:
            manager.get_context(str(chance.randrange(40_000)))
        else:
            name, added = chance.randrange(40_000), ids[number]
            added[0], added[1] = name % 49_152, chance.randrange(49_152)  # like no other
            manager.add_context(str(name), added)
going = False
watcher.join()
stats = manager.stats()
print(stats.tiers[0].peak, shown, stats.bytes, anonymous() - before,
      stats.tiers[-1].peak, written, stats.contexts)
"""


def budget() -> dict[str, Any]:
    size = 2**28
    result: dict[str, Any] = {"claim": "peak bytes over the budget of 256 MiB (goal <= 1.000)"}
    here = str(Path(__file__).parent)
    for name, disk in (("memory", ""), ("memory and disk", "yes")):
        with folder() as path:
            out = subprocess.run(
                [sys.executable, "-c", CHURN, str(size), disk and str(path / "s"), here],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        peak, shown, now, shown_now, disk_peak, written, contexts = map(int, out.split())
        result[name] = {
            "peak_in_the_books": peak / size,
            "peak_as_the_system_shows": shown / size,
            "counted_over_shown_at_the_end": now / shown_now,
            "contexts_at_the_end": contexts,
        }
        if disk:
            result[name]["disk_peak_in_the_books"] = disk_peak / (4 * size)
            result[name]["disk_peak_as_the_system_shows"] = written / (4 * size)
    return result


FILL = """
import sys
sys.path.insert(0, sys.argv[2])
from memory import COUNT, SIZES, SOURCE, VOCABULARY, context
from transom import ContextMemoryManager
manager = ContextMemoryManager(2**28, disk=sys.argv[1], max_disk=2**33, vocab_size=VOCABULARY)
for number in range(COUNT):
    assert manager.add_context(f"tenant/{number}", context(number))
print("filled", flush=True)
sys.stdin.readline()
manager.close()
"""


def restart() -> dict[str, Any]:
    here = str(Path(__file__).parent)
    result: dict[str, Any] = {"claim": f"seconds to open a store of {COUNT:,} contexts (goal < 2)"}

    def opened(path: Path) -> float:
        start = time.perf_counter()
        manager = ContextMemoryManager(2**28, disk=path, max_disk=2**33, vocab_size=VOCABULARY)
        assert manager.get_context("tenant/77777") is not None
        seconds = time.perf_counter() - start
        assert len(manager) == COUNT
        manager.close()
        return seconds

    with folder() as path:
        child = subprocess.Popen(
            [sys.executable, "-c", FILL, str(path / "s"), here],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "filled\n"
        child.send_signal(signal.SIGKILL)
        child.wait()
        result["after a kill"] = opened(path / "s")
        result["after closing"] = median(opened(path / "s") for _ in range(5))
        without = []
        for _ in range(3):
            (path / "s" / "index").unlink()
            without.append(opened(path / "s"))
        result["without its index"] = median(without)
    return result


CLAIMS = (in_memory, on_disk, states, trace, budget, restart)

if __name__ == "__main__":
    assert threading.active_count() == 1
    run_claims("memory", CLAIMS)

"""What it takes to know a context that is on disk only: bytes of the process, and as counted.

Each size is measured in a process of its own: contexts of 64 tokens are added, the store is closed,
and opened again. What the process has more then than before, by the system
(`/proc/self/smaps_rollup`) and by `tracemalloc`, is divided by the contexts. So is what the manager
counts of its budget. At most 150 are to be traced and counted.

    python benchmarks/resting.py
"""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
from _measure import run_claims

from transom.memory import ContextMemoryManager

VOCABULARY = 50_000
SIZES = (10_000, 100_000)


def bytes_each() -> dict[str, Any]:
    result: dict[str, Any] = {
        "claim": "bytes of memory for each context on disk only (goal <= 150)"
    }
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            fill(folder, size)
            anonymous, counted, seconds = run("anonymous", folder, size)
            traced, _, _ = run("traced", folder, size)
        result[f"{size:,} contexts"] = {
            "as the system shows": round(anonymous, 1),
            "traced": round(traced, 1),
            "counted": round(counted, 1),
            "seconds to open": round(seconds, 2),
        }
    return result


def opened(folder: str) -> ContextMemoryManager:
    return ContextMemoryManager(2**30, disk=folder, max_disk=2**36, vocab_size=VOCABULARY)


def fill(folder: str, size: int) -> None:
    ids = np.random.default_rng(0).integers(0, VOCABULARY, 64)
    with opened(folder) as manager:
        for number in range(size):
            ids[:2] = divmod(number, VOCABULARY)
            assert manager.add_context(f"tenant/{number}", ids)


def run(how: str, folder: str, size: int) -> list[float]:
    command = [sys.executable, __file__, "measure", how, folder, str(size)]
    return [float(text) for text in subprocess.check_output(command, text=True).split()]


def measure(how: str, folder: str, size: int) -> None:
    with tempfile.TemporaryDirectory() as warm:
        opened(warm).close()
    gc.collect()
    if how == "traced":
        tracemalloc.start()
    before, began = taken(how), time.perf_counter()
    manager = opened(folder)
    seconds = time.perf_counter() - began
    gc.collect()
    more = taken(how) - before
    assert len(manager) == size
    print(more / size, manager.stats().bytes / size, seconds)


def taken(how: str) -> int:
    if how == "traced":
        return tracemalloc.get_traced_memory()[0]
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("Anonymous:"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        run_claims("resting", (bytes_each,))

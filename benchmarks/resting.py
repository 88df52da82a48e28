"""What it takes to know a context that is on disk only: bytes of the process, and as counted.

Each size is measured in a process of its own: contexts of 64 tokens are added with a small memory,
the store is closed, and opened again with a large one. What the process has more then than before,
by the system (`/proc/self/smaps_rollup`) and by `tracemalloc`, is divided by the contexts. So is what
the manager counts of its budget.

    python benchmarks/resting.py 10000 100000
"""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np

from transom.memory import ContextMemoryManager

VOCABULARY = 50_000
MOST = 150  # bytes, of what is counted and what was asked for


def main() -> None:
    sizes = [int(text) for text in sys.argv[1:]] or [10_000, 100_000]
    print(f"{'contexts':>10} {'anonymous':>10} {'traced':>10} {'counted':>10}  seconds to open")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            fill(folder, size)
            figures = [run(how, folder, size) for how in ("anonymous", "traced")]
        (anonymous, counted, seconds), (traced, _, _) = figures
        print(f"{size:>10,} {anonymous:>10.1f} {traced:>10.1f} {counted:>10.1f}  {seconds:.2f}")
        assert max(traced, counted) <= MOST, "more than a context may take"


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
        main()

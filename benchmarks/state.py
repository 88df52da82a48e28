"""A context that was saved, forked or trimmed goes on at once, instead of reading again.

Three claims, on SmolLM2-135M in float32 with 4,096 tokens of the Python documentation in the cache:

1. restoring from disk against prefilling the same tokens again;
2. saving and restoring, with checksums, against writing (and bringing to disk) and reading a file
   of as many bytes;
3. a fork, and the first token after it, which copies what the two share.

Run `python benchmarks/state.py`, or with the numbers of the claims to run: `... state.py 1 3`.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from pydoc_data.topics import topics
from statistics import median
from typing import Any

import torch
from _measure import interleaved, ratio, run_claims

from transom import Context, models

TOKENS = 4096
POLICY = "full"  # the most there is to save

loaded = models.load("smollm2", report=print)
MODEL, TOKENIZER = loaded.model, loaded.tokenizer
TEXT = "\n\n".join(f"{name}\n{topics[name]}" for name in sorted(topics))
IDS = torch.tensor(TOKENIZER(TEXT, verbose=False).input_ids)[:TOKENS]


def reader() -> Context:
    context = Context(MODEL, TOKENIZER, POLICY)
    context.append(IDS)
    return context


def restore_or_read_again() -> dict[str, Any]:
    """Claim 1."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        context = reader()
        start = time.perf_counter()
        size = context.save(path)
        first = time.perf_counter() - start
        steps = {
            "read again": reader,
            # A virtual machine may have to get memory that was given back from its host first.
            "plain read": path.read_bytes,
            "restore": lambda: Context.load(path, MODEL, TOKENIZER),
        }
        seconds = interleaved(steps, rounds=5, warm=1)
    return {
        "claim": f"Restoring {TOKENS} tokens from disk against prefilling them again",
        "bytes": size,
        "prefill_over_restore": ratio(seconds, "read again", "restore"),
        "prefill_s": median(seconds["read again"]),
        "restore_s": median(seconds["restore"]),
        "plain_read_before_it_s": median(seconds["plain read"]),
        "first_save_s_with_the_weights_hashed": first,
    }


def against_a_raw_file() -> dict[str, Any]:
    """Claim 2."""
    with tempfile.TemporaryDirectory() as folder:
        path, raw = Path(folder) / "state", Path(folder) / "raw"
        context = reader()
        size = context.save(path)
        data = memoryview(bytes(size))

        def write_raw() -> None:
            with open(raw, "wb", buffering=0) as file:
                left = data
                while len(left):
                    left = left[file.write(left) :]
                os.fsync(file.fileno())

        def read_raw() -> None:
            raw.read_bytes()

        steps = {
            "write raw": write_raw,
            "save": lambda: context.save(path),
            "read raw": read_raw,
            "restore": lambda: Context.load(path, MODEL, TOKENIZER),
        }
        seconds = interleaved(steps, rounds=9, warm=2)
    return {
        "claim": "Saving and restoring against a raw file of as many bytes",
        "bytes": size,
        "save_speed_over_raw": ratio(seconds, "write raw", "save"),
        "restore_speed_over_raw": ratio(seconds, "read raw", "restore"),
        "raw_write_mb_per_s": size / 1e6 / median(seconds["write raw"]),
        "save_mb_per_s": size / 1e6 / median(seconds["save"]),
        "raw_read_mb_per_s": size / 1e6 / median(seconds["read raw"]),
        "restore_mb_per_s": size / 1e6 / median(seconds["restore"]),
    }


def fork() -> dict[str, Any]:
    """Claim 3."""
    context = reader()
    one = IDS[:1]
    twin = context.fork()
    steps = {"fork": context.fork, "step": lambda: twin.append(one)}
    seconds = interleaved(steps, rounds=30)

    firsts = []
    for _ in range(5):
        again = context.fork()
        start = time.perf_counter()
        again.append(one)
        firsts.append(time.perf_counter() - start)
    return {
        "claim": f"A fork of {TOKENS} tokens, and the first step after it, which copies them",
        "fork_ms": 1e3 * median(seconds["fork"]),
        "first_step_ms": 1e3 * median(firsts),
        "later_step_ms": 1e3 * median(seconds["step"]),
        "kv_bytes": context.usage.kv_bytes,
    }


if __name__ == "__main__":
    run_claims("state", [restore_or_read_again, against_a_raw_file, fork])

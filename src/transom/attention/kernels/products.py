"""The dtype in which this processor multiplies small matrices fastest."""

from __future__ import annotations

import threading
import time
from functools import cache

import torch
from torch import Tensor

from transom.attention.compiling import uncompiled
from transom.attention.kernels.one_core import use_one_core
from transom.slow_paths import log_slow_path

__all__ = ["multiplied_in"]

HALVES = (torch.bfloat16, torch.float16)
SIDE = 128
TIMES = 5


def multiplied_in(x: Tensor) -> torch.dtype:
    """The dtype of `x`; but float32 if this processor multiplies half precision more slowly.

    A processor without instructions for bfloat16 or float16 takes some forty times as long with
    it. Small products show that; they are timed once per process.
    """
    if x.device.type != "cpu" or x.dtype not in HALVES:
        return x.dtype
    return x.dtype if _is_fast(x.dtype) else torch.float32


@uncompiled
def _is_fast(dtype: torch.dtype) -> bool:
    fast = _seconds(dtype) <= _seconds(torch.float32)
    if not fast:
        name = str(dtype).removeprefix("torch.")
        log_slow_path(
            "attention",
            f"this processor multiplies {name} more slowly than float32, so attention computes in "
            "float32, from copies. Load the model in float32 where there is memory for it.",
        )
    return fast


@cache
def _seconds(dtype: torch.dtype) -> float:
    """The shortest time of some tries, for two products of small matrices on one core."""
    taken: list[float] = []

    def measure() -> None:
        use_one_core()  # several cores would wait for each other longer than a product takes
        a = torch.ones(2, SIDE, SIDE, dtype=dtype, device="cpu")
        for _ in range(TIMES):
            start = time.perf_counter()
            torch.bmm(a, a)
            taken.append(time.perf_counter() - start)

    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
    return min(taken)

"""Speed: a prompt of any length, and the tokens after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from transom.evaluate.measures.base import Bench, Hooks, Measure
from transom.evaluate.rows import RowKey, SpeedRow

if TYPE_CHECKING:
    from transom.context import Context

__all__ = ["RecomputedSpeed", "Speed"]

STEPS = 16  # single tokens that are timed; their median counts
PASSES = 3  # whole windows that are timed, likewise


@dataclass(frozen=True)
class Speed(Measure):
    """The text read once, in chunks; at each length, a few tokens one by one.

    Every token comes from the text, which is repeated where it is too short. So the times are those
    of reading, without the choice of a token from the logits.
    """

    policy: str
    lengths: tuple[int, ...]

    @property
    def title(self) -> str:
        return f"speed {self.lengths[-1]:,}"

    @property
    def keys(self) -> Sequence[RowKey]:
        return [(SpeedRow.kind, self.policy, length) for length in self.lengths]

    def tokens(self, bench: Bench) -> int:
        return self.lengths[-1]

    def run(self, bench: Bench, wanted: set[RowKey], hooks: Hooks) -> None:
        context, warm = bench.context(self.policy), bench.context(self.policy)
        ids = np.resize(bench.ids, self.lengths[-1] + STEPS)
        for start, stop in ((0, context.chunk), (context.chunk, context.chunk + 1)):
            warm.append(ids[start:stop])  # work that happens only the first time
        del warm
        seen, prefill = 0, 0.0
        for length in self.lengths:
            while seen < length:
                if hooks.stop():
                    return
                stop = min(seen + context.chunk, length)
                prefill += _seconds(context, ids[seen:stop])
                hooks.on_tokens(stop - seen)
                seen = stop
            usage, decoder = context.usage, context.fork()
            steps = []
            for at in range(seen, seen + STEPS):
                if hooks.stop():
                    return
                steps.append(_seconds(decoder, ids[at : at + 1]))
            if (SpeedRow.kind, self.policy, length) in wanted:
                hooks.emit(
                    SpeedRow(
                        policy=self.policy,
                        length=length,
                        prefill_seconds=prefill,
                        decode_seconds=median(steps),
                        hot_bytes=usage.kv_bytes,
                        cold_bytes=usage.cold_bytes,
                    )
                )


@dataclass(frozen=True)
class RecomputedSpeed(Measure):
    """The next token from a window of `size` tokens that is recomputed for each token.

    It takes the same time at any length, so there is one figure for all lengths.
    """

    policy: str
    lengths: tuple[int, ...]
    size: int

    @property
    def title(self) -> str:
        return "speed"

    @property
    def keys(self) -> Sequence[RowKey]:
        return [(SpeedRow.kind, self.policy, length) for length in self.lengths]

    def tokens(self, bench: Bench) -> int:
        return (1 + PASSES) * self.size

    def check(self, bench: Bench) -> None:
        bench.context("full")

    def run(self, bench: Bench, wanted: set[RowKey], hooks: Hooks) -> None:
        context = bench.context("full")
        ids = np.resize(bench.ids, self.size)
        seconds = []
        for _ in range(1 + PASSES):
            context.reset()
            took = 0.0
            for start in range(0, self.size, context.chunk):
                if hooks.stop():
                    return
                piece = ids[start : start + context.chunk]
                took += _seconds(context, piece)
                hooks.on_tokens(len(piece))
            seconds.append(took)
        held = context.usage.kv_bytes
        rows = [SpeedRow(self.policy, n, None, median(seconds[1:]), held, 0) for n in self.lengths]
        for row in rows:
            if row.key in wanted:
                hooks.emit(row)


def _seconds(context: Context, ids: NDArray[np.int32]) -> float:
    """The seconds that it takes to append `ids`."""
    began = perf_counter()
    context.append(ids)
    return perf_counter() - began

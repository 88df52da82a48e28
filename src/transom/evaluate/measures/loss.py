"""Loss along the text: under a policy, and with every window recomputed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transom.evaluate.losses import LossCurve
from transom.evaluate.measures.base import Bench, Hooks, Measure
from transom.evaluate.reading import passes
from transom.evaluate.rows import LossRow, RowKey

__all__ = ["Loss", "RecomputedLoss", "recomputed"]

POINTS = 64  # at most, along the text


def recomputed(size: int) -> str:
    """The name that rows of a recomputed window have in place of a policy."""
    return f"recompute:{size}"


@dataclass(frozen=True)
class Loss(Measure):
    """The text, or its first `limit` tokens, read once under a policy."""

    policy: str
    limit: int

    @property
    def title(self) -> str:
        return f"loss {self.limit:,}"

    @property
    def keys(self) -> Sequence[RowKey]:
        return [(LossRow.kind, self.policy, self.limit)]

    def tokens(self, bench: Bench) -> int:
        return self.limit

    def run(self, bench: Bench, wanted: set[RowKey], hooks: Hooks) -> None:
        context, ids = bench.context(self.policy), bench.ids[: self.limit]
        curve, seconds, hot = LossCurve(), 0.0, 0
        for losses, took in passes(context, ids, hooks.stop):
            curve.add(losses)
            seconds += took
            hot = max(hot, context.usage.kv_bytes)
            hooks.on_tokens(len(losses))
        if curve.tokens == len(ids):
            hooks.emit(_row(self.policy, curve, seconds, hot, context.usage.cold_bytes))


@dataclass(frozen=True)
class RecomputedLoss(Loss):
    """The text in windows of `size` tokens that overlap by half, each read from nothing.

    This shows what a fixed window costs without a cache that slides. Every token has at least half
    a window before it (but for the start of the text), and is read twice.
    """

    size: int

    def tokens(self, bench: Bench) -> int:
        return 2 * self.limit

    def check(self, bench: Bench) -> None:
        bench.context("full")

    def run(self, bench: Bench, wanted: set[RowKey], hooks: Hooks) -> None:
        context = bench.context("full")
        ids, stride = bench.ids[: self.limit], max(1, self.size // 2)
        curve, seconds, held = LossCurve(), 0.0, 0
        while curve.tokens < len(ids):
            if hooks.stop():
                return
            start = max(0, curve.tokens + stride - self.size)
            window = ids[start : start + self.size]
            context.reset()
            losses = np.empty(0)
            for some, took in passes(context, window, hooks.stop):
                losses = np.append(losses, some)
                seconds += took
            if len(losses) < len(window):
                return
            held = max(held, context.usage.kv_bytes)
            hooks.on_tokens(len(window))
            curve.add(losses[curve.tokens - start :])
        hooks.emit(_row(self.policy, curve, seconds, held, 0))


def _row(policy: str, curve: LossCurve, seconds: float, hot: int, cold: int) -> LossRow:
    points = curve.stretches(curve.length(POINTS))
    return LossRow(
        policy=policy,
        tokens=curve.tokens,
        loss=_finite(curve.mean),
        points=tuple((start, stop, _finite(loss)) for start, stop, loss in points),
        seconds=seconds,
        hot_bytes=hot,
        cold_bytes=cold,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

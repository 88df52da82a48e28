"""Rows of an evaluation, summed up for each policy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from transom.evaluate.front import front
from transom.evaluate.rows import LossRow, RecallRow, Row, SpeedRow

__all__ = ["Held", "PolicySummary", "Score", "by_bytes", "comparable", "score", "summaries"]

Held = Literal["hot_bytes", "total_bytes"]

Z = 1.96  # standard deviations on each side of a 95 % interval


class Score(NamedTuple):
    """How many of some trials were right."""

    right: int
    total: int

    @property
    def rate(self) -> float:
        """The share of them, 0 to 1."""
        return self.right / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true share lies, with 95 % confidence (Wilson's interval).

        >>> [round(bound, 2) for bound in Score(30, 30).interval]
        [0.89, 1.0]
        """
        n, p = self.total, self.rate
        middle = p + Z * Z / (2 * n)
        reach = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
        scale = 1 + Z * Z / n
        return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


@dataclass(frozen=True)
class PolicySummary:
    """What one policy came to.

    Attributes:
        loss: the longest reading; None if there was none.
        recall: its trials.
        speeds: from the shortest length to the longest.
    """

    policy: str
    loss: LossRow | None
    recall: tuple[RecallRow, ...]
    speeds: tuple[SpeedRow, ...]

    @property
    def hot_bytes(self) -> int:
        """The most bytes of keys and values in the cache, whatever was measured."""
        return max(row.hot_bytes for row in self._rows)

    @property
    def cold_bytes(self) -> int:
        """The most bytes of keys and values outside of it."""
        return max(row.cold_bytes for row in self._rows)

    @property
    def total_bytes(self) -> int:
        """The most bytes of keys and values anywhere: in the cache and outside of it."""
        return max(row.hot_bytes + row.cold_bytes for row in self._rows)

    @property
    def recalled(self) -> Score | None:
        """All trials together; None if there were none."""
        return score(self.recall) if self.recall else None

    def of(self, task: str, length: int | None = None) -> Score | None:
        """The trials of a task, at one length or at all; None if there were none."""
        rows = [r for r in self.recall if r.task == task and length in (None, r.length)]
        return score(rows) if rows else None

    @property
    def flatness(self) -> float | None:
        """Loss over the last quarter of the text over that of its second; None if unknown.

        Near 1 where a policy can go on for ever, far above where it falls apart.
        """
        if self.loss is None:
            return None
        second, last = self._stretch(0.25, 0.5), self._stretch(0.75, 1.0)
        return last / second if second and last else None

    def _stretch(self, start: float, stop: float) -> float | None:
        """Mean loss of the points whose middle is in that part of the text."""
        assert self.loss is not None
        weights, losses = [], []
        for a, b, loss in self.loss.points:
            if start <= (a + b) / 2 / self.loss.tokens < stop:
                weights.append(b - a)
                losses.append(math.nan if loss is None else loss)
        mean = float(np.average(losses, weights=weights)) if losses else math.nan
        return mean if math.isfinite(mean) else None

    @property
    def _rows(self) -> Sequence[Row]:
        return [*([self.loss] if self.loss else []), *self.recall, *self.speeds]

    def to_json(self) -> dict[str, Any]:
        """The summary as JSON values."""
        tasks = dict.fromkeys(row.task for row in self.recall)
        lengths = sorted({row.length for row in self.recall})
        recall: dict[str, Any] = {}
        for task in tasks:
            scores = {length: self.of(task, length) for length in lengths}
            recall[task] = {
                str(length): {"right": one.right, "total": one.total}
                for length, one in scores.items()
                if one is not None
            }
        return {
            "policy": self.policy,
            "hot_bytes": self.hot_bytes,
            "cold_bytes": self.cold_bytes,
            "total_bytes": self.total_bytes,
            "loss": None if self.loss is None else self.loss.loss,
            "loss_tokens": None if self.loss is None else self.loss.tokens,
            "flatness": self.flatness,
            "recall": recall,
            "prefill_tokens_per_second": {
                str(row.length): row.length / row.prefill_seconds
                for row in self.speeds
                if row.prefill_seconds
            },
            "decode_seconds": {str(row.length): row.decode_seconds for row in self.speeds},
        }


def score(rows: Iterable[RecallRow]) -> Score:
    """How many of these trials were right."""
    right = [row.right for row in rows]
    return Score(sum(right), len(right))


def comparable(rows: Sequence[Row], order: Sequence[str] = ()) -> list[Row]:
    """The rows of what was found out under every policy alike, in their order.

    An evaluation that was interrupted, or that more policies were added to, has asked some of them
    more questions than others: figures of all their rows would compare what is not alike. What
    counts is what was found out, of a kind and a task, under all policies of `order` of which
    anything of that kind is known; without an order, under all there are.
    """
    known: dict[tuple[Any, ...], dict[str, set[tuple[Any, ...]]]] = {}
    for row in rows:
        if not order or row.policy in order:
            known.setdefault(_group(row), {}).setdefault(row.policy, set()).add(_matter(row))
    alike = {group: set.intersection(*found.values()) for group, found in known.items()}
    return [row for row in rows if _group(row) not in alike or _matter(row) in alike[_group(row)]]


def summaries(rows: Iterable[Row], order: Sequence[str] = ()) -> list[PolicySummary]:
    """A summary for each policy: those of `order` first, then others as they come."""
    found: dict[str, list[Row]] = {policy: [] for policy in order}
    for row in rows:
        found.setdefault(row.policy, []).append(row)
    return [_summary(policy, of) for policy, of in found.items() if of]


def by_bytes(found: Sequence[PolicySummary], quality: str, held: Held = "hot_bytes") -> list[int]:
    """Which summaries are on the front of `quality`, `"loss"` or `"recall"`, against bytes.

    Only those that have that figure, in order of bytes: hot ones, or all of them.
    """
    points = []
    for index, one in enumerate(found):
        if quality == "loss" and one.loss is not None and one.loss.loss is not None:
            points.append((index, (getattr(one, held), -one.loss.loss)))
        if quality == "recall" and one.recalled is not None:
            points.append((index, (getattr(one, held), one.recalled.rate)))
    return [points[i][0] for i in front([point for _, point in points])]


def _group(row: Row) -> tuple[Any, ...]:
    """What a row is compared within: its kind, and of what is asked the task."""
    return (row.kind, row.task) if isinstance(row, RecallRow) else (row.kind,)


def _matter(row: Row) -> tuple[Any, ...]:
    """What was found out, under whichever policy."""
    kind, _, *others = row.key
    return kind, *others


def _summary(policy: str, rows: Sequence[Row]) -> PolicySummary:
    losses = [row for row in rows if isinstance(row, LossRow)]
    return PolicySummary(
        policy=policy,
        loss=max(losses, key=lambda row: row.tokens, default=None),
        recall=tuple(row for row in rows if isinstance(row, RecallRow)),
        speeds=tuple(
            sorted((r for r in rows if isinstance(r, SpeedRow)), key=lambda row: row.length)
        ),
    )

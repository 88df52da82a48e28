"""Rows of an evaluation, summarized for each policy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from transom.evaluate.front import front
from transom.evaluate.rows import LossRow, RecallRow, Row, RowKey, SpeedRow

__all__ = ["Held", "PolicySummary", "Score", "by_bytes", "comparable", "score", "summaries"]

Held = Literal["hot_bytes", "total_bytes"]

Z = 1.96  # standard deviations on each side of a 95 % interval


class Score(NamedTuple):
    """How many of some trials were right."""

    right: int
    total: int

    @property
    def rate(self) -> float:
        """The share of right answers, 0 to 1."""
        return self.right / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the true share (Wilson's).

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
    """The measurements of one policy.

    Attributes:
        loss: the longest reading; None if there was none.
        recall: its trials.
        speeds: its speeds, from the shortest length to the longest.
    """

    policy: str
    loss: LossRow | None
    recall: tuple[RecallRow, ...]
    speeds: tuple[SpeedRow, ...]

    @property
    def hot_bytes(self) -> int:
        """The most bytes of keys and values in the cache, in any measurement."""
        return max(row.hot_bytes for row in self._rows)

    @property
    def cold_bytes(self) -> int:
        """The most bytes of keys and values outside the cache."""
        return max(row.cold_bytes for row in self._rows)

    @property
    def total_bytes(self) -> int:
        """The most bytes of keys and values in the cache and outside it together."""
        return max(row.hot_bytes + row.cold_bytes for row in self._rows)

    @property
    def recalled(self) -> Score | None:
        """All trials together; None if there were none."""
        return score(self.recall) if self.recall else None

    def of(self, task: str, length: int | None = None) -> Score | None:
        """The score of a task, at one length or at all lengths; None without trials."""
        rows = [r for r in self.recall if r.task == task and length in (None, r.length)]
        return score(rows) if rows else None

    @property
    def flatness(self) -> float | None:
        """Mean loss of the text's last quarter divided by that of its second; None if unknown.

        Near 1 under a policy that can go on for ever, far above 1 where the model falls apart.
        """
        if self.loss is None:
            return None
        second, last = self._stretch(0.25, 0.5), self._stretch(0.75, 1.0)
        return last / second if second and last else None

    def _stretch(self, start: float, stop: float) -> float | None:
        """Mean loss of the points whose middle lies in this part of the text."""
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

    def to_json(self) -> dict[str, object]:
        """The summary as JSON values."""
        tasks = dict.fromkeys(row.task for row in self.recall)
        lengths = sorted({row.length for row in self.recall})
        recall: dict[str, dict[str, dict[str, int]]] = {}
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
    """The rows by which policies can be compared fairly, in their order.

    When an evaluation was interrupted, or policies were added to it, some policies have answered
    more questions than others, and figures of all rows would compare different questions. So a row
    counts only if every policy has a row for the same question. Policies without any row of that
    kind and task do not matter for this, nor do policies outside `order`, if it is given.
    """
    known: dict[RowKey, dict[str, set[RowKey]]] = {}
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

    Only summaries that have that figure, in the order of their bytes: hot ones, or all of them.
    """
    points = []
    for index, one in enumerate(found):
        if quality == "loss" and one.loss is not None and one.loss.loss is not None:
            points.append((index, (getattr(one, held), -one.loss.loss)))
        if quality == "recall" and one.recalled is not None:
            points.append((index, (getattr(one, held), one.recalled.rate)))
    return [points[i][0] for i in front([point for _, point in points])]


def _group(row: Row) -> RowKey:
    """The group within which a row is compared: its kind and, for a trial, its task."""
    return (row.kind, row.task) if isinstance(row, RecallRow) else (row.kind,)


def _matter(row: Row) -> RowKey:
    """The question that a row answers: its key without the policy."""
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

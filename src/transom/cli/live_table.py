"""The results of an evaluation as a table, during the run and after it."""

from __future__ import annotations

from collections.abc import Sequence

from transom.evaluate.summary import PolicySummary, Score
from transom.units import plain_seconds, plain_size

__all__ = ["columns", "lines"]


def columns(found: Sequence[PolicySummary]) -> list[str]:
    """The names of the columns: those for which any policy has a result."""
    tasks = _tasks(found)
    return [
        *(["policy", "KV hot", "KV in all"] if _cold(found) else ["policy", "KV"]),
        *(["loss", "flat"] if any(one.loss for one in found) else []),
        *tasks,
        *(["prefill", "decode"] if any(one.speeds for one in found) else []),
    ]


def lines(found: Sequence[PolicySummary]) -> list[list[str]]:
    """A row for each policy. A dash stands for a result that is not there yet."""
    tasks = _tasks(found)
    cold = _cold(found)
    read, timed = any(one.loss for one in found), any(one.speeds for one in found)
    return [
        [
            *(one.policy, plain_size(one.hot_bytes)),
            *([plain_size(one.total_bytes)] if cold else []),
            *(_loss(one) if read else []),
            *(_score(one.of(task)) for task in tasks),
            *(_speed(one) if timed else []),
        ]
        for one in found
    ]


def _cold(found: Sequence[PolicySummary]) -> bool:
    return any(one.cold_bytes for one in found)


def _tasks(found: Sequence[PolicySummary]) -> list[str]:
    return list(dict.fromkeys(row.task for one in found for row in one.recall))


def _score(score: Score | None) -> str:
    return "-" if score is None else f"{score.right}/{score.total}"


def _loss(one: PolicySummary) -> list[str]:
    loss = one.loss.loss if one.loss else None
    flat = one.flatness
    return ["-" if loss is None else f"{loss:.3f}", "-" if flat is None else f"{flat:.2f}"]


def _speed(one: PolicySummary) -> list[str]:
    """Tokens per second of the prefill and seconds per decoded token, at the longest length."""
    if not one.speeds:
        return ["-", "-"]
    last = one.speeds[-1]
    prefill = f"{last.length / last.prefill_seconds:,.0f} tok/s" if last.prefill_seconds else "-"
    return [prefill, plain_seconds(last.decode_seconds)]

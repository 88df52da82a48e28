"""Heat maps: how many trials were right, by length and depth, one grid per task and policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transom.evaluate.summary import PolicySummary, Score, score
from transom.evaluate.tasks import TASKS

__all__ = ["TaskGrids", "TrialGrid", "grids"]


@dataclass(frozen=True)
class TrialGrid:
    """One policy's trials of one task: rows by depth, columns by length, None without trials."""

    policy: str
    total: Score
    rows: tuple[tuple[str, tuple[Score | None, ...]], ...]


@dataclass(frozen=True)
class TaskGrids:
    """One task's grids, all of the same shape."""

    task: str
    summary: str
    lengths: tuple[int, ...]
    grids: tuple[TrialGrid, ...]


def grids(found: Sequence[PolicySummary]) -> list[TaskGrids]:
    """The grids of every task that has trials, policies in their order."""
    tried = {row.task for one in found for row in one.recall}
    return [_of_task(task, found) for task in TASKS if task in tried]


def _of_task(task: str, found: Sequence[PolicySummary]) -> TaskGrids:
    rows = {one.policy: [row for row in one.recall if row.task == task] for one in found}
    rows = {policy: of for policy, of in rows.items() if of}
    every = [row for of in rows.values() for row in of]
    lengths = tuple(sorted({row.length for row in every}))
    depths = sorted({row.depth for row in every})
    made = []
    for policy, of in rows.items():
        cells = []
        for depth in depths:
            here = [[r for r in of if (r.length, r.depth) == (n, depth)] for n in lengths]
            cells.append(
                (TASKS[task].where(depth), tuple(score(some) if some else None for some in here))
            )
        made.append(TrialGrid(policy, score(of), tuple(cells)))
    return TaskGrids(task, TASKS[task].summary, lengths, tuple(made))

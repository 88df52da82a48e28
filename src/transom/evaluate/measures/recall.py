"""Recall: the trials of one task at one length under one policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transom.evaluate.measures.base import Bench, Hooks, Measure
from transom.evaluate.rows import RecallRow, RowKey
from transom.evaluate.tasks import Task
from transom.evaluate.trials import Answer, answer_all

__all__ = ["Recall"]


@dataclass(frozen=True)
class Recall(Measure):
    """All trials of a task at one length; a beginning that trials share is read once."""

    policy: str
    task: Task
    length: int
    depths: tuple[float, ...]
    trials: int

    @property
    def title(self) -> str:
        return f"{self.task.name} {self.length:,}"

    @property
    def keys(self) -> Sequence[RowKey]:
        cells = self.task.cells(self.length, self.depths, self.trials)
        return [(RecallRow.kind, self.policy, self.task.name, *cell) for cell in cells]

    def tokens(self, bench: Bench) -> int:
        if self.task.one_text:
            return self.trials * self.length
        read_by_each = sum(1 - depth for depth in self.depths)
        return round(self.trials * self.length * (1 + read_by_each))

    def check(self, bench: Bench) -> None:
        super().check(bench)
        self.task.trial(bench.material, self.task.cells(self.length, self.depths, 1)[0])

    def run(self, bench: Bench, wanted: set[RowKey], hooks: Hooks) -> None:
        cells = self.task.cells(self.length, self.depths, self.trials)
        keyed = zip(self.keys, cells, strict=True)
        trials = []
        for key, cell in keyed:
            if hooks.stop():
                return
            if key in wanted:
                trials.append(self.task.trial(bench.material, cell))
        answer_all(
            bench.context(self.policy),
            trials,
            answer_tokens=self.task.answer_tokens,
            on_answer=lambda answer: hooks.emit(self._row(answer)),
            on_progress=hooks.on_tokens,
            stop=hooks.stop,
        )

    def _row(self, answer: Answer) -> RecallRow:
        trial = answer.trial
        return RecallRow(
            policy=self.policy,
            task=self.task.name,
            length=trial.cell.length,
            depth=trial.cell.depth,
            trial=trial.cell.trial,
            tokens=len(trial.ids),
            expected=trial.expected,
            answer=answer.text,
            right=trial.is_right(answer.text),
            hot_bytes=answer.hot_bytes,
            cold_bytes=answer.cold_bytes,
        )

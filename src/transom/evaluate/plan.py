"""What an evaluation measures, in which order: a plan, and the loop that carries it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from transom.errors import InputError
from transom.evaluate.measures import (
    Bench,
    Hooks,
    Loss,
    Measure,
    Recall,
    RecomputedLoss,
    RecomputedSpeed,
    Speed,
    recomputed,
)
from transom.evaluate.record import ResultLog
from transom.evaluate.rows import Row, RowKey
from transom.evaluate.tasks import TASKS, task
from transom.policies import Policy

__all__ = ["LOSS", "SPEED", "EvaluationPlan", "State", "carry_out", "known_tasks"]

LOSS, SPEED = "loss", "speed"


def known_tasks() -> tuple[str, ...]:
    """The names that `EvaluationPlan.tasks` may have."""
    return (LOSS, *TASKS, SPEED)


@dataclass(frozen=True)
class EvaluationPlan:
    """Policies and what is measured under each.

    Attributes:
        policies: the policies to compare.
        tasks: `"loss"`, `"speed"` and recall tasks.
        lengths: of the prompts; the longest is also how much of the text is read for the loss.
        depths: how far into the text trials hide what they ask for, from 0 to 1.
        trials: how many for each length and depth.
        recompute: size in tokens of a window that is also measured without a cache, recomputed for
            every step; None for none.

    Raises:
        InputError: when there is nothing to measure, or an unknown task, or a setting is out of
            range.
    """

    policies: tuple[Policy, ...]
    tasks: tuple[str, ...] = (LOSS, "passkey", "needle", "kv-recall", "multi-turn", SPEED)
    lengths: tuple[int, ...] = (2048, 4096, 8192)
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    trials: int = 1
    recompute: int | None = None

    def __post_init__(self) -> None:
        for name in ("policies", "tasks", "lengths", "depths"):
            if not getattr(self, name):
                raise InputError(f"there are no {name} to evaluate; expected at least one.")
        for name in self.tasks:
            if name not in known_tasks():
                raise InputError(f"unknown task {name!r}; known tasks: {', '.join(known_tasks())}.")
        counts = {"lengths": min(self.lengths), "trials": self.trials, "recompute": self.recompute}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise InputError(f"{name}: {count} was given; it must be at least 1.")
        if not all(0 <= depth <= 1 for depth in self.depths):
            raise InputError(f"depths are {self.depths}; expected numbers from 0 to 1.")

    def measures(self, bench: Bench) -> list[Measure]:
        """The measurements in the order they are made: short ones first, policies side by side.

        Raises:
            InputError: when the text is too short for the longest prompts.
        """
        lengths = tuple(sorted(set(self.lengths)))
        limit = min(lengths[-1], len(bench.ids))
        found: list[Measure] = []
        for policy in dict.fromkeys(map(str, self.policies)):
            for name in dict.fromkeys(self.tasks):
                if name == LOSS:
                    found.append(Loss(policy, limit))
                elif name == SPEED:
                    found.append(Speed(policy, lengths))
                else:
                    of = task(name)
                    found += [Recall(policy, of, n, self.depths, self.trials) for n in lengths]
        if self.recompute is not None:
            name = recomputed(self.recompute)
            if LOSS in self.tasks:
                found.append(RecomputedLoss(name, limit, self.recompute))
            if SPEED in self.tasks:
                found.append(RecomputedSpeed(name, lengths, self.recompute))
        return sorted(found, key=lambda measure: measure.tokens(bench))


class State(NamedTuple):
    """How far an evaluation is.

    Attributes:
        measure: the measurement under way.
        done, total: about how many tokens have been read, and will be. Measurements that the record
            had already count in neither.
        number, measures: the number of this measurement, from 1, and how many there are.
    """

    measure: Measure
    done: int
    total: int
    number: int
    measures: int


def carry_out(
    plan: EvaluationPlan,
    bench: Bench,
    record: ResultLog,
    *,
    on_state: Callable[[State], None] = lambda state: None,
    on_row: Callable[[Row], None] = lambda row: None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Measure what the record does not have yet; returns whether the record is complete now.

    Args:
        record: where the rows are added, one by one as they come.
        on_state: called when a measurement begins and after every pass.
        on_row: called with each new row.
        stop: asked before every pass, and while trials are made. Once it is true the evaluation
            ends; the rows so far remain.

    Raises:
        InputError: when trials cannot be made of the text.
        PolicyError, UnsupportedModelError: when the model cannot follow one of the policies.
    """
    waiting = [(measure, _missing(measure, record)) for measure in plan.measures(bench)]
    waiting = [(measure, wanted) for measure, wanted in waiting if wanted]
    for measure, _ in waiting:
        if stop():
            return False
        measure.check(bench)  # an impossible measurement is refused before hours of work
    sizes = [_share(measure, wanted, bench) for measure, wanted in waiting]

    def emit(row: Row) -> None:
        record.add([row])
        on_row(row)

    for index, (measure, wanted) in enumerate(waiting):
        if stop():
            return False
        state = State(measure, sum(sizes[:index]), sum(sizes), index + 1, len(sizes))
        on_state(state)
        measure.run(bench, wanted, Hooks(emit, _moving(state, sizes[index], on_state), stop))
    return all(key in record for _, wanted in waiting for key in wanted)


def _moving(state: State, size: int, on_state: Callable[[State], None]) -> Callable[[int], None]:
    """A callback that counts tokens and reports `state` with them, at most `size` in all."""
    read = 0

    def on_tokens(tokens: int) -> None:
        nonlocal read
        read += tokens
        on_state(state._replace(done=state.done + min(read, size)))

    return on_tokens


def _missing(measure: Measure, record: ResultLog) -> set[RowKey]:
    return {key for key in measure.keys if key not in record}


def _share(measure: Measure, wanted: set[RowKey], bench: Bench) -> int:
    """About how many tokens the missing rows take, supposing that all rows take equally many."""
    return max(1, measure.tokens(bench) * len(wanted) // len(measure.keys))

"""Trials through a context, with what several begin with alike read only once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transom.evaluate.tasks import Trial

if TYPE_CHECKING:
    from transom.context import Context

__all__ = ["Answer", "answer_all", "tokens_to_read"]


class Answer(NamedTuple):
    """What a model said to a trial, and the bytes of keys and values it then had."""

    trial: Trial
    text: str
    hot_bytes: int
    cold_bytes: int


class _Step(NamedTuple):
    """Tokens that some trials have in common, after those of the steps around it.

    Attributes:
        trials: those that go through it; a single one ends with it.
        start, stop: the tokens of each of them.
        forks: whether the context is needed again in the state it has before this step.
        level: how many steps are around it.
    """

    trials: tuple[Trial, ...]
    start: int
    stop: int
    forks: bool
    level: int


def answer_all(
    context: Context,
    trials: Sequence[Trial],
    *,
    answer_tokens: int,
    on_answer: Callable[[Answer], None],
    on_progress: Callable[[int], None] = lambda tokens: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Let a fresh context answer every trial, in an order of its own.

    A context is forked where trials part, at a multiple of its chunk. So every token is read in
    the same chunk as if its trial were the only one, and the answers are the same too, under any
    policy.

    Args:
        context: with nothing in it; what is in it afterwards is not defined.
        answer_tokens: that each answer may have.
        on_answer: called with each answer as it comes.
        on_progress: called after every pass, with how many tokens went through it.
        stop: asked before every pass; once true, the remaining trials have no answer.
    """
    readers = [context]
    for step in _steps(trials, context.chunk):
        del readers[step.level + 1 :]
        reader = readers[-1].fork() if step.forks else readers[-1]
        readers.append(reader)
        for start in range(step.start, step.stop, context.chunk):
            if stop():
                return
            reader.append(step.trials[0].ids[start : min(start + context.chunk, step.stop)])
            on_progress(min(context.chunk, step.stop - start))
        if len(step.trials) == 1:
            usage = reader.usage
            text = reader.generate(max_new_tokens=answer_tokens)
            on_answer(Answer(step.trials[0], text, usage.kv_bytes, usage.cold_bytes))


def tokens_to_read(trials: Sequence[Trial], chunk: int) -> int:
    """How many tokens `answer_all` feeds for these trials, answers not counted."""
    return sum(step.stop - step.start for step in _steps(trials, chunk))


def _steps(trials: Sequence[Trial], chunk: int) -> Iterator[_Step]:
    """A walk through the tree that trials with common beginnings make, depth first.

    Of the branches at a fork the largest comes last: it needs no copy.
    """
    waiting = [(tuple(trials), 0, False, 0)] if trials else []
    while waiting:
        group, start, forks, level = waiting.pop()
        stop = len(group[0].ids) if len(group) == 1 else _common(group, chunk)
        yield _Step(group, start, stop, forks, level)
        if len(group) > 1:
            parts = sorted(_parted(group, stop, chunk), key=len, reverse=True)
            waiting.append((parts[0], stop, False, level + 1))
            waiting += [(part, stop, True, level + 1) for part in parts[1:]]


def _common(group: Sequence[Trial], chunk: int) -> int:
    """How many first tokens all have in common, in whole chunks."""
    first = group[0].ids
    return min(_alike(first, trial.ids) for trial in group[1:]) // chunk * chunk


def _alike(a: NDArray[np.int32], b: NDArray[np.int32]) -> int:
    shorter = min(len(a), len(b))
    differ = np.flatnonzero(a[:shorter] != b[:shorter])
    return int(differ[0]) if len(differ) else shorter


def _parted(group: Sequence[Trial], at: int, chunk: int) -> list[tuple[Trial, ...]]:
    """Those that go on alike for a chunk; the same prompt twice is no branch of its own."""
    parts: dict[bytes, list[Trial]] = {}
    for trial in group:
        parts.setdefault(trial.ids[at : at + chunk].tobytes(), []).append(trial)
    if len(parts) == 1:
        return [(trial,) for trial in group]
    return [tuple(part) for part in parts.values()]

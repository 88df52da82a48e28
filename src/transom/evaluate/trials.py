"""Trials through a context, where a beginning that several share is read only once."""

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
    """What a model answered in a trial, and the bytes of keys and values it then had."""

    trial: Trial
    text: str
    hot_bytes: int
    cold_bytes: int


class _Branch(NamedTuple):
    """Tokens that some trials share, after the tokens of the branches that lead to it.

    Attributes:
        trials: the trials that share it; a single one ends with it.
        start, stop: the range of these tokens in each of the trials.
        forks: whether the context before this branch is needed again, for another branch.
        level: how many branches lead to it.
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
    """Let a fresh context answer every trial, in the order that reads the fewest tokens.

    The context is forked where trials part, at a multiple of its chunk. So every token is read in
    the same chunk as if its trial were the only one, and under any policy the answers are the same
    too.

    Args:
        context: an empty one; what it holds afterwards is undefined.
        answer_tokens: the most tokens of an answer.
        on_answer: called with each answer as it comes.
        on_progress: called after every pass, with the number of its tokens.
        stop: asked before every pass. Once it is true the remaining trials get no answer.
    """
    readers = [context]
    for branch in _branches(trials, context.chunk):
        del readers[branch.level + 1 :]
        reader = readers[-1].fork() if branch.forks else readers[-1]
        readers.append(reader)
        for start in range(branch.start, branch.stop, context.chunk):
            if stop():
                return
            reader.append(branch.trials[0].ids[start : min(start + context.chunk, branch.stop)])
            on_progress(min(context.chunk, branch.stop - start))
        if len(branch.trials) == 1:
            usage = reader.usage
            text = reader.generate(max_new_tokens=answer_tokens)
            on_answer(Answer(branch.trials[0], text, usage.kv_bytes, usage.cold_bytes))


def tokens_to_read(trials: Sequence[Trial], chunk: int) -> int:
    """How many tokens `answer_all` feeds for these trials, without the answers."""
    return sum(branch.stop - branch.start for branch in _branches(trials, chunk))


def _branches(trials: Sequence[Trial], chunk: int) -> Iterator[_Branch]:
    """Walk the tree (a trie) of trials with common beginnings, depth first.

    At each fork the largest branch comes last, because the last one needs no copy.
    """
    waiting = [(tuple(trials), 0, False, 0)] if trials else []
    while waiting:
        group, start, forks, level = waiting.pop()
        stop = len(group[0].ids) if len(group) == 1 else _common(group, chunk)
        yield _Branch(group, start, stop, forks, level)
        if len(group) > 1:
            parts = sorted(_parted(group, stop, chunk), key=len, reverse=True)
            waiting.append((parts[0], stop, False, level + 1))
            waiting += [(part, stop, True, level + 1) for part in parts[1:]]


def _common(group: Sequence[Trial], chunk: int) -> int:
    """The length of the common beginning of all, in whole chunks."""
    first = group[0].ids
    return min(_alike(first, trial.ids) for trial in group[1:]) // chunk * chunk


def _alike(a: NDArray[np.int32], b: NDArray[np.int32]) -> int:
    shorter = min(len(a), len(b))
    differ = np.flatnonzero(a[:shorter] != b[:shorter])
    return int(differ[0]) if len(differ) else shorter


def _parted(group: Sequence[Trial], at: int, chunk: int) -> list[tuple[Trial, ...]]:
    """The trials grouped by their next chunk; equal prompts are separated as well."""
    parts: dict[bytes, list[Trial]] = {}
    for trial in group:
        parts.setdefault(trial.ids[at : at + chunk].tobytes(), []).append(trial)
    if len(parts) == 1:
        return [(trial,) for trial in group]
    return [tuple(part) for part in parts.values()]

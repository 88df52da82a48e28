"""Which blocks come into which frames, and who sees them: plain numbers, no storage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["BlockMove", "Held", "Sight", "Stages", "exchange", "exchanges", "sights"]

Held = list[list[list[int]]]  # rows, kv heads, blocks in the frames; negative where unseen
Stages = list[list[int]]  # of one kv head of a row: before the first selection, after it, ...


class BlockMove(NamedTuple):
    """A block that comes into a frame.

    Attributes:
        row: of the rows that are handled together.
        head: the kv head.
        stage: selections of the pass up to this one; so many are behind those who see the block.
        place: of the frame among those for recalled blocks.
        block: its number in the text.
    """

    row: int
    head: int
    stage: int
    place: int
    block: int


class Sight(NamedTuple):
    """A block that a kv head of a row sees at some stages.

    Attributes:
        place: of its frame.
        move: the number of the one that brings it; -1 where it is in its frame already.
        stages: at which it is seen.
    """

    place: int
    move: int
    stages: list[int]


def exchange(held: list[int], wanted: Sequence[int], cold: range) -> list[tuple[int, int]]:
    """Put wanted blocks in the frames of those that are not; gives the places and blocks.

    Blocks that are not wanted stay until their frame is. Those that are not cold any more leave
    at once, and where nothing else is wanted the newest ones come for them.

    Args:
        held: the block in each frame; changed.
        wanted: at most as many.
        cold: the blocks that there are.

    >>> held = [1, 2, 3]
    >>> exchange(held, [3, 7], range(1, 9)), held
    ([(0, 7)], [7, 2, 3])
    """
    coming = [block for block in wanted if block not in held]
    if not coming and min(held) >= cold.start:
        return []
    lost = [place for place, block in enumerate(held) if block < cold.start]
    newest = reversed(cold)
    while len(coming) < len(lost):
        block = next(newest)
        if block not in held and block not in coming:
            coming.append(block)
    idle = [
        place for place, block in enumerate(held) if block >= cold.start and block not in wanted
    ]
    moves = list(zip(lost + idle, sorted(coming), strict=False))
    for place, block in moves:
        held[place] = block
    return moves


def exchanges(
    held: Held, wanted: Sequence[Held], cold: range
) -> tuple[list[list[Stages]], list[BlockMove]]:
    """The same for each kv head of each row after each of several selections.

    Args:
        held: what is in the frames.
        wanted: after each selection.
        cold: the blocks that there are.

    Returns:
        Of each row and kv head what is in the frames before and after each selection; and what
        comes, in the order of rows and heads, and then of selections.
    """
    states: list[list[Stages]] = [[] for _ in held]
    moves: list[BlockMove] = []
    for row, heads in enumerate(held):
        for head, blocks in enumerate(heads):
            inside, after = [*map(abs, blocks)], [blocks]
            for stage, now in enumerate(wanted, start=1):
                want = now[row][head]
                came = exchange(inside, want, cold)
                moves += [BlockMove(row, head, stage, place, block) for place, block in came]
                after.append([block if block in want else -block for block in inside])
            states[row].append(after)
    return states, moves


def sights(states: Stages, stages: range, moves: Mapping[int, BlockMove]) -> list[Sight]:
    """What one kv head of a row sees, and when: first what was in frames, then what comes.

    Args:
        states: the blocks in its frames at each stage from 0.
        stages: that there are tokens in.
        moves: its own by their numbers, in the order of their stages.

    >>> sights([[1, -2], [-1, 7]], range(2), {5: BlockMove(0, 0, 1, 1, 7)})
    [Sight(place=0, move=-1, stages=[0]), Sight(place=1, move=5, stages=[1])]
    """
    found: dict[tuple[int, int], list[int]] = {}
    came: dict[int, int] = {}
    coming = [*moves.items()]
    for stage in stages:
        while coming and coming[0][1].stage <= stage:
            number, move = coming.pop(0)
            came[move.place] = number
        for place, block in enumerate(states[stage]):
            if block > 0:
                found.setdefault((came.get(place, -1), place), []).append(stage)
    return [Sight(place, number, at) for (number, place), at in sorted(found.items())]

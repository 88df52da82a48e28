"""Which block goes into which frame, and which head sees it when: plain numbers, no tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["BlockMove", "Held", "Sight", "Stages", "exchange", "exchanges", "sights"]

Held = list[list[list[int]]]  # row, kv head, frame: the block in it, negative if unseen
Stages = list[list[int]]  # stage, frame: as above; stage 0 is before the first selection


class BlockMove(NamedTuple):
    """A block that is fetched into a frame.

    Attributes:
        row: among the rows that are handled together.
        head: the kv head.
        stage: from which stage on it is seen: the number of selections up to this one.
        place: of the frame, among the frames for recalled blocks.
        block: its number in the text.
    """

    row: int
    head: int
    stage: int
    place: int
    block: int


class Sight(NamedTuple):
    """A recalled block that a kv head of a row sees at some stages.

    Attributes:
        place: of its frame.
        move: the number of the move that fetches it; -1 if it is in its frame already.
        stages: at which it is seen.
    """

    place: int
    move: int
    stages: list[int]


def exchange(held: list[int], wanted: Sequence[int], cold: range) -> list[tuple[int, int]]:
    """Put wanted blocks into the frames of unwanted ones; return the places and the blocks.

    An unwanted block stays until its frame is needed. A block that the store has forgotten leaves
    at once; if no wanted block takes its frame, the newest cold block does.

    Args:
        held: the block in each frame. It is changed.
        wanted: blocks, at most as many as there are frames.
        cold: the blocks that the store has.

    >>> held = [1, 2, 3]
    >>> exchange(held, [3, 7], range(1, 9)), held
    ([(0, 7)], [7, 2, 3])
    """
    missing = [block for block in wanted if block not in held]
    if not missing and min(held) >= cold.start:
        return []
    lost = [place for place, block in enumerate(held) if block < cold.start]
    newest = reversed(cold)
    while len(missing) < len(lost):
        block = next(newest)
        if block not in held and block not in missing:
            missing.append(block)
    idle = [
        place for place, block in enumerate(held) if block >= cold.start and block not in wanted
    ]
    moves = list(zip(lost + idle, sorted(missing), strict=False))
    for place, block in moves:
        held[place] = block
    return moves


def exchanges(
    held: Held, wanted: Sequence[Held], cold: range
) -> tuple[list[list[Stages]], list[BlockMove]]:
    """Do `exchange` for each kv head of each row, after each of several selections.

    Args:
        held: the blocks in the frames, before.
        wanted: the blocks that are wanted after each selection.
        cold: the blocks that the store has.

    Returns:
        For each row and kv head, the blocks in the frames before and after each selection; and the
        moves, in the order of rows, heads and selections.
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
    """Which recalled blocks one kv head of a row sees, and at which stages.

    Blocks that are in their frames already come first, then the blocks that are fetched.

    Args:
        states: the blocks in its frames at each stage, from 0.
        stages: the stages in which there are queries.
        moves: the head's own moves by their numbers, in the order of their stages.

    >>> sights([[1, -2], [-1, 7]], range(2), {5: BlockMove(0, 0, 1, 1, 7)})
    [Sight(place=0, move=-1, stages=[0]), Sight(place=1, move=5, stages=[1])]
    """
    found: dict[tuple[int, int], list[int]] = {}
    came: dict[int, int] = {}
    missing = [*moves.items()]
    for stage in stages:
        while missing and missing[0][1].stage <= stage:
            number, move = missing.pop(0)
            came[move.place] = number
        for place, block in enumerate(states[stage]):
            if block > 0:
                found.setdefault((came.get(place, -1), place), []).append(stage)
    return [Sight(place, number, at) for (number, place), at in sorted(found.items())]

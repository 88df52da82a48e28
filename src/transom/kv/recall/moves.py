"""Which blocks come into which frames, and who sees them: plain numbers, no storage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Held", "Move", "Sight", "exchange", "sights"]

Held = list[list[list[int]]]  # rows, kv heads, blocks in the frames for recalled ones


class Move(NamedTuple):
    """A block that comes into a frame.

    Attributes:
        stage: selections of the pass up to this one; so many are behind those who see the block.
        row: of the rows that are handled together.
        head: the kv head.
        place: of the frame among those for recalled blocks.
        block: its number in the text.
    """

    stage: int
    row: int
    head: int
    place: int
    block: int


class Sight(NamedTuple):
    """A block that a kv head of a row sees at some stages.

    Attributes:
        row: of the rows that are handled together.
        head: the kv head.
        place: of its frame.
        move: which of the moves brings it; -1 where it is in its frame already.
        slot: where it is beside others that the head sees, from 1; the first block has 0.
        stages: at which it is seen.
    """

    row: int
    head: int
    place: int
    move: int
    slot: int
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


def sights(states: Sequence[Held], stages: range, moves: Sequence[Move]) -> list[Sight]:
    """What is seen, and when.

    Args:
        states: the blocks in frames at each stage from 0, negative where they are not seen.
        stages: that there are tokens in.
        moves: in the order of their stages.

    >>> states = [[[[1, -2]]], [[[-1, 7]]]]
    >>> for sight in sights(states, range(2), [Move(1, 0, 0, 1, 7)]):
    ...     print(sight.place, sight.move, sight.slot, sight.stages)
    0 -1 1 [0]
    1 0 2 [1]
    """
    found: dict[tuple[int, int, int, int], list[int]] = {}
    came: dict[tuple[int, int, int], int] = {}
    number = 0
    for stage in stages:
        while number < len(moves) and moves[number].stage <= stage:
            _, row, head, place, _ = moves[number]
            came[row, head, place] = number
            number += 1
        for row, heads in enumerate(states[stage]):
            for head, blocks in enumerate(heads):
                for place, block in enumerate(blocks):
                    if block > 0:
                        move = came.get((row, head, place), -1)
                        found.setdefault((row, head, place, move), []).append(stage)
    count: Counter[tuple[int, int]] = Counter()
    seen = []
    for (row, head, place, move), at in found.items():
        count[row, head] += 1
        seen.append(Sight(row, head, place, move, count[row, head], at))
    return seen

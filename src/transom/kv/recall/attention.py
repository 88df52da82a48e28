"""Attention of queries to blocks, when the blocks in the frames change between the queries."""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from transom.attention.kernels.parts import Attended, attend_part, together
from transom.attention.modes import lasting
from transom.attention.score_rule import ScoreRule
from transom.kv.recall.placement import BlockMove, Held, Sight, Stages, sights

__all__ = ["attended_by_stage", "bias_of_held", "bias_of_later"]


def attended_by_stage(
    q: Tensor,
    pools: Sequence[Tensor],
    fetched: Sequence[Tensor],
    states: list[list[Stages]],
    moves: Sequence[BlockMove],
    stages: Tensor,
    near: Attended,
    base: Tensor,
    rule: ScoreRule,
) -> Tensor:
    """The output of queries between which blocks are selected.

    Each query attends to what it may see. The kv heads are handled one by one, because some see
    many blocks and others see none.

    Args:
        q: `(rows, heads, tokens, dim)`.
        pools: keys and values in frames, `(rows, kv_heads, frames, block, dim)` each, before any
            selection.
        fetched: keys and values of the fetched blocks, `(moves, block, dim)` each.
        states: for each row and kv head, the blocks in its frames before and after each selection.
        moves: which frame each fetched block goes to, and when.
        stages: `(tokens,)`, how many selections come before each query.
        near: attention to the local tokens.
        base: `(rows, heads, tokens, value_dim)`, the output where no recalled block is seen. It is
            changed.
        rule: how scores become weights; `near` has the sink.
    """
    theirs: defaultdict[tuple[int, int], dict[int, BlockMove]] = defaultdict(dict)
    for number, move in enumerate(moves):
        theirs[move.row, move.head][number] = move
    block, groups = pools[0].shape[3], q.shape[1] // len(states[0])
    here = range(int(stages[0]), int(stages[-1]) + 1)
    for row, head in itertools.product(*map(range, pools[0].shape[:2])):
        seen = sights(states[row][head], here, theirs[row, head])
        if not seen:
            continue
        keys, values = (  # shared by all heads of the group
            x.flatten(0, 1).expand(1, groups, -1, -1)
            for x in _beside([frames[row, head] for frames in pools], fetched, seen)
        )
        bias = _bias_by_stage(seen, stages, block, keys.dtype).to(q.device)
        heads = slice(head * groups, (head + 1) * groups)
        far = attend_part(q[row, heads][None], keys, values, bias, rule)
        base[row, heads] = together(Attended(*(x[row, heads] for x in near)), far).out[0]
    return base


def _beside(
    pools: Sequence[Tensor], fetched: Sequence[Tensor], seen: Sequence[Sight]
) -> list[Tensor]:
    """Keys and values that one kv head of a row sees, `(1 + seen, block, dim)` each.

    The first block, then the blocks of `seen`.

    Args:
        pools: keys and values in its frames, `(frames, block, dim)` each.
        fetched: keys and values of all fetched blocks, `(moves, block, dim)` each.
        seen: in the order of their moves, blocks that are in their frames already first.
    """
    device = pools[0].device
    here = torch.tensor([0, *(1 + one.place for one in seen if one.move < 0)], device=device)
    came = torch.tensor(
        [one.move for one in seen if one.move >= 0], dtype=torch.int64, device=device
    )
    both = []
    for frames, blocks in zip(pools, fetched, strict=True):
        all_of = frames.new_empty(1 + len(seen), *frames.shape[1:])
        torch.index_select(frames, 0, here, out=all_of[: len(here)])
        torch.index_select(blocks, 0, came, out=all_of[len(here) :])
        both.append(all_of)
    return both


def _bias_by_stage(seen: Sequence[Sight], stages: Tensor, block: int, dtype: torch.dtype) -> Tensor:
    """The bias of each query for the keys of `_beside`, `(tokens, blocks * block)`.

    Args:
        seen: the blocks, and at which stages they are seen.
        stages: `(tokens,)`, the stage of each query.
        block: tokens of a block.
        dtype: of the keys.
    """
    first, last = int(stages[0]), int(stages[-1])
    table = [
        [0.0, *(0.0 if stage in one.stages else -torch.inf for one in seen)]
        for stage in range(first, last + 1)
    ]
    bias = torch.tensor(table, dtype=dtype, device="cpu")[stages - first, :, None]
    return bias.expand(*bias.shape[:2], block).flatten(1)  # faster than repeat_interleave


def bias_of_held(held: Held, block: int, dtype: torch.dtype) -> Tensor | None:
    """The bias for the first block and for recalled blocks, `(rows, kv_heads, 1, keys)`.

    None if no head sees a recalled block.
    """
    seen = torch.tensor(
        [[[True, *(number > 0 for number in one)] for one in row] for row in held], device="cpu"
    )
    if not seen[..., 1:].any():
        return None
    bias = torch.where(seen, 0.0, -torch.inf).to(dtype)
    return bias.repeat_interleave(block, dim=2)[:, :, None]


@functools.lru_cache(maxsize=16)
@lasting
def bias_of_later(
    places: range, keys: int, groups: int, block: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The bias of queries in the last block, which hides later keys, `(groups * queries, keys)`.

    Args:
        places: of the queries in the last block.
        keys: how many there are, all of the last block included.
        groups: query heads per kv head.
        block: tokens of a block.
        dtype: of the bias.
        device: of the bias.
    """
    columns = torch.arange(keys, device=device) - (keys - block)
    hidden = columns > torch.arange(places.start, places.stop, device=device)[:, None]
    bias = torch.zeros(hidden.shape, dtype=dtype, device=device)
    return bias.masked_fill_(hidden, -torch.inf).repeat(groups, 1)

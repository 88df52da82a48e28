"""What queries see of blocks: biases, and blocks from several places beside each other."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from transom.kv.recall.moves import Held, Sight

__all__ = ["bias_by_stage", "bias_of_held", "bias_of_later", "gathered"]


def gathered(
    pools: Sequence[Tensor], fetched: Sequence[Tensor] | None, seen: Sequence[Sight]
) -> list[Tensor]:
    """The first block and all that is seen beside it, from frames and from what was fetched.

    Args:
        pools: keys and values in frames, `(rows, kv_heads, frames, block, dim)` each.
        fetched: those of the blocks that come, `(moves, block, dim)` each.

    Returns:
        Keys and values, `(rows, kv_heads, slots, block, dim)` each.
    """
    row, head, place, move, slot = torch.tensor([sight[:5] for sight in seen]).T
    came, both = move >= 0, []
    for number, frames in enumerate(pools):
        pool = frames.new_zeros(*frames.shape[:2], int(slot.max()) + 1, *frames.shape[3:])
        pool[:, :, 0] = frames[:, :, 0]
        pool[row, head, slot] = frames[row, head, 1 + place]
        if fetched is not None:
            pool[row[came], head[came], slot[came]] = fetched[number][move[came]]
        both.append(pool)
    return both


def bias_by_stage(
    seen: Sequence[Sight],
    shape: Sequence[int],
    stages: Tensor,
    groups: int,
    block: int,
    dtype: torch.dtype,
) -> Tensor:
    """The bias of keys that `gathered` gave, `(rows, kv_heads, groups * tokens, slots * block)`.

    Args:
        shape: rows, kv heads and slots.
        stages: `(tokens,)`, at which each token is.
        groups: heads of a group.
        block: tokens of a block.
        dtype: of the keys.
    """
    bias = torch.full((int(stages[-1]) + 1, *shape), -torch.inf, dtype=dtype)
    bias[..., 0] = 0
    when = [(stage, sight.row, sight.head, sight.slot) for sight in seen for stage in sight.stages]
    bias[tuple(torch.tensor(when).T)] = 0
    bias = bias[stages].permute(1, 2, 0, 3).repeat(1, 1, groups, 1)[..., None]
    return bias.expand(*bias.shape[:4], block).flatten(3)  # faster than repeat_interleave


def bias_of_held(held: Held, block: int, dtype: torch.dtype) -> Tensor | None:
    """The bias of the first block and of those in frames, `(rows, kv_heads, 1, keys)`.

    None if none of those in frames is seen.
    """
    seen = torch.tensor([[[True, *(number > 0 for number in one)] for one in row] for row in held])
    if not seen[..., 1:].any():
        return None
    bias = torch.where(seen, 0.0, -torch.inf).to(dtype)
    return bias.repeat_interleave(block, dim=2)[:, :, None]


@functools.lru_cache(maxsize=16)
def bias_of_later(
    places: range, keys: int, groups: int, block: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The bias of queries at `places` of the last block: what comes after them is not seen.

    `(groups * queries, keys)`.
    """
    columns = torch.arange(keys, device=device) - (keys - block)
    hidden = columns > torch.arange(places.start, places.stop, device=device)[:, None]
    bias = torch.zeros(hidden.shape, dtype=dtype, device=device)
    return bias.masked_fill_(hidden, -torch.inf).repeat(groups, 1)

"""What queries see of blocks: biases, and blocks from several places beside each other."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from transom.kv.recall.moves import Held, Sight

__all__ = ["beside", "bias_by_stage", "bias_of_held", "bias_of_later"]


def beside(
    pools: Sequence[Tensor], fetched: Sequence[Tensor] | None, seen: Sequence[Sight]
) -> list[Tensor]:
    """The first block and beside it all that one kv head of a row sees, `(seen, block, dim)` each.

    Args:
        pools: keys and values in its frames, `(frames, block, dim)` each.
        fetched: those of the blocks that come, `(moves, block, dim)` each.
    """
    device = pools[0].device
    here = torch.tensor([0, *(1 + one.place for one in seen if one.move < 0)], device=device)
    came = torch.tensor([one.move for one in seen if one.move >= 0], device=device)
    both = []
    for number, frames in enumerate(pools):
        all_of = frames.new_empty(1 + len(seen), *frames.shape[1:])
        torch.index_select(frames, 0, here, out=all_of[: len(here)])
        if fetched is not None and len(came):
            torch.index_select(fetched[number], 0, came, out=all_of[len(here) :])
        both.append(all_of)
    return both


def bias_by_stage(seen: Sequence[Sight], stages: Tensor, block: int, dtype: torch.dtype) -> Tensor:
    """The bias of keys that `beside` gave, `(tokens, blocks * block)`.

    Args:
        stages: `(tokens,)`, at which each token is.
        block: tokens of a block.
        dtype: of the keys.
    """
    first, last = int(stages[0]), int(stages[-1])
    table = [
        [0.0, *(0.0 if stage in one.stages else -torch.inf for one in seen)]
        for stage in range(first, last + 1)
    ]
    bias = torch.tensor(table, dtype=dtype)[stages - first, :, None]
    return bias.expand(*bias.shape[:2], block).flatten(1)  # faster than repeat_interleave


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

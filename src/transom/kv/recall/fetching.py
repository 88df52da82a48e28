"""Moving cold blocks into the frames of a layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from transom.kv.recall.placement import BlockMove
from transom.kv.recall.row_blocks import RowBlocks

__all__ = ["fetch", "store_fetched"]


def fetch(
    row_blocks: Sequence[RowBlocks], moves: Sequence[BlockMove], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Keys and values of cold blocks, `(moves, block, dim)` each, as they are stored.

    Args:
        row_blocks: the cold blocks of the rows that the moves are about.
        moves: which blocks to fetch; at least one.
        device: to copy them to.
    """
    found = [row_blocks[move.row].block(move.block, move.head) for move in moves]
    keys, values = (
        torch.stack(pool).to(device, non_blocking=True) for pool in zip(*found, strict=True)
    )
    return keys, values


def store_fetched(
    pools: Sequence[Tensor], moves: Sequence[BlockMove], fetched: Sequence[Tensor]
) -> None:
    """Put fetched blocks into their frames. Changes the pools.

    Args:
        pools: keys and values in frames, `(rows, kv_heads, frames, block, dim)` each.
        moves: which frame each block goes to.
        fetched: keys and values of these blocks, `(moves, block, dim)` each.
    """
    if not moves:
        return
    # Of several blocks that go to one frame, the last one stays.
    last = {(move.row, move.head, move.place): number for number, move in enumerate(moves)}
    row, head, place = torch.tensor([*last], device="cpu").T
    stay = torch.tensor([*last.values()], device="cpu")
    for pool, blocks in zip(pools, fetched, strict=True):
        pool[row, head, 1 + place] = blocks[stay]

"""Storage of one layer's tokens whose heads may hold different ones, and different numbers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["PoolPart", "SlotMove"]


class PoolPart(NamedTuple):
    """Some rows and heads that are handled together, and where they are in a pool.

    A pool is a tensor `(batch, kv_heads, slots, ...)`. Where heads have equal budgets, `slots` is
    the budget of each. Otherwise the slots of a row are one stretch, in which each head has its
    own, longer or shorter than `slots`, one after the other.

    Attributes:
        rows: of the batch.
        head: the only kv head, or None for all of them.
        before: by how much the heads before this one have more than `slots` each, in all.
        extra: by how much this one has.
    """

    rows: slice
    head: int | None = None
    before: int = 0
    extra: int = 0

    def slots(self, pool: Tensor) -> Tensor:
        """This part's slots, `(rows, heads, slots, ...)`; a view."""
        if self.head is None:
            return pool[self.rows]
        start = self.head * pool.shape[2] + self.before
        return pool.flatten(1, 2)[self.rows, None, start : start + pool.shape[2] + self.extra]

    def heads(self, x: Tensor, group: int = 1) -> Tensor:
        """This part of something that has `group` entries for each kv head; a view."""
        if self.head is None:
            return x[self.rows]
        return x[self.rows, self.head * group : (self.head + 1) * group]


class SlotMove(NamedTuple):
    """Which slots stay, and where they go, in the order of the parts.

    Attributes:
        kept: `(rows, heads, slots kept)` int64 per part, ascending.
        parts: before.
        to: the same parts afterwards.
    """

    kept: list[Tensor]
    parts: list[PoolPart]
    to: list[PoolPart]

    def apply(self, pool: Tensor, tail: int = 0) -> None:
        """Move the slots of a pool, but for the last `tail` of each part, which are elsewhere."""
        source, target = [], []
        for kept, before, after in zip(self.kept, self.parts, self.to, strict=True):
            stay = kept[..., : kept.shape[-1] - tail]
            source.append((_first(before, pool, stay) + stay).flatten())
            order = torch.arange(stay.shape[-1], device=stay.device)
            target.append((_first(after, pool, stay) + order).expand_as(stay).flatten())
        flat = pool.flatten(0, 2)
        flat.index_copy_(0, torch.cat(target), flat.index_select(0, torch.cat(source)))


def _first(part: PoolPart, pool: Tensor, kept: Tensor) -> Tensor:
    """`(rows, heads, 1)`: where each of a part's stretches begins in the flattened pool."""
    heads, slots = pool.shape[1:3]
    rows = torch.arange(len(pool), device=kept.device)[part.rows]
    starts = rows[:, None] * (heads * slots)
    if part.head is None:
        starts = starts + torch.arange(heads, device=kept.device) * slots
    else:
        starts = starts + (part.head * slots + part.before)
    return starts[..., None]

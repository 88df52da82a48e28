"""Storage of one layer whose heads may hold different tokens, and different numbers of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["PoolPart", "SlotMove"]


class PoolPart(NamedTuple):
    """Some rows and heads that are handled together, and where they are in a pool.

    A pool is a tensor `(batch, kv_heads, slots, ...)`. Where heads have equal budgets, each head
    has `slots` slots. Otherwise the heads divide all slots of a row among them: the slots of one
    head follow those of the head before it, and may be more or fewer than `slots`.

    Attributes:
        rows: of the batch.
        head: the only kv head, or None for all of them.
        before: the sum of `extra` over the heads before this one.
        extra: how many slots this head has more than `slots`; negative for fewer.
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
        """This part of a tensor that has `group` entries for each kv head; a view."""
        return x[self.rows, self.query_heads(group)]

    def query_heads(self, group: int) -> slice:
        """The query heads of this part, of which each kv head has `group`."""
        return (
            slice(None) if self.head is None else slice(self.head * group, (self.head + 1) * group)
        )


class SlotMove(NamedTuple):
    """Which slots stay; they move to the front of their part and keep their order.

    Attributes:
        kept: `(rows, heads, slots kept)` int64 per part, ascending.
        parts: where the parts are before the move.
        to: where they are after it.
    """

    kept: list[Tensor]
    parts: list[PoolPart]
    to: list[PoolPart]

    def apply(self, pool: Tensor, tail: int = 0) -> None:
        """Move the slots of a pool, without the last `tail` of each part: another tensor has them.

        Changes the pool.
        """
        source, target = [], []
        for kept, before, after in zip(self.kept, self.parts, self.to, strict=True):
            stay = kept[..., : kept.shape[-1] - tail]
            source.append((_first(before, pool, stay) + stay).flatten())
            order = torch.arange(stay.shape[-1], device=stay.device)
            target.append((_first(after, pool, stay) + order).expand_as(stay).flatten())
        flat = pool.flatten(0, 2)
        flat.index_copy_(0, torch.cat(target), flat.index_select(0, torch.cat(source)))


def _first(part: PoolPart, pool: Tensor, kept: Tensor) -> Tensor:
    """`(rows, heads, 1)`: where each head of a part begins in the flattened pool."""
    heads, slots = pool.shape[1:3]
    rows = torch.arange(len(pool), device=kept.device)[part.rows]
    starts = rows[:, None] * (heads * slots)
    if part.head is None:
        starts = starts + torch.arange(heads, device=kept.device) * slots
    else:
        starts = starts + (part.head * slots + part.before)
    return starts[..., None]

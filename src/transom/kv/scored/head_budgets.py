"""How many tokens each head of a layer may hold, and where they are in its storage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from transom.kv.scored.pool import PoolPart

__all__ = ["HeadBudgets"]


class HeadBudgets:
    """The budgets of the heads of each row: equal, or shared out among them at every eviction.

    Attributes:
        extra: for each row and kv head, by how many tokens its budget exceeds an equal one;
            negative where it is smaller. Those of a row add up to zero.
    """

    def __init__(self, rows: int, heads: int, equal: bool) -> None:
        self.extra = [[0] * heads for _ in range(rows)]
        self._equal = equal

    @property
    def heads(self) -> int:
        """The kv heads of a row."""
        return len(self.extra[0])

    def parts(self, rows: slice) -> list[tuple[PoolPart, PoolPart]]:
        """Where rows are in the storage, and where they are in a tensor of those rows alone.

        One part for all heads where budgets are equal, otherwise one for each head of each row.
        """
        if self._equal:
            return [(PoolPart(rows), PoolPart(slice(None)))]
        parts = []
        for place, row in enumerate(range(*rows.indices(len(self.extra)))):
            before = 0
            for head, extra in enumerate(self.extra[row]):
                part = PoolPart(slice(row, row + 1), head, before, extra)
                parts.append((part, PoolPart(slice(place, place + 1), head)))
                before += extra
        return parts

    def share_out(self, row: int, extra: list[int]) -> None:
        """Give the heads of a row other budgets."""
        self.extra[row] = extra

    def take_rows(self, rows: Sequence[int]) -> HeadBudgets:
        """Independent budgets whose row `i` is row `rows[i]` of these."""
        taken = HeadBudgets(0, 0, self._equal)
        taken.extra = [list(self.extra[row]) for row in rows]
        return taken

    def copy(self) -> HeadBudgets:
        """The same budgets, independent of these."""
        return self.take_rows(range(len(self.extra)))

    def reset(self) -> None:
        """Make all budgets equal again."""
        self.extra = [[0] * len(row) for row in self.extra]

    @property
    def state(self) -> Tensor:
        """`(rows, kv_heads)` int64, for a file."""
        return torch.tensor(self.extra, dtype=torch.int64, device="cpu")

    @classmethod
    def restored(cls, state: Tensor, equal: bool) -> HeadBudgets:
        """Budgets from what `state` gave."""
        budgets = cls(0, 0, equal)
        budgets.extra = state.tolist()
        return budgets

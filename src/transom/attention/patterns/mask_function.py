"""A function that says which keys each query may see, and what that function knows of tiles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from transom.policies import Span

__all__ = ["Grid", "MaskFunction", "Tiles"]


class Grid(NamedTuple):
    """Tiles of queries and keys: the first and last position of each side, both included.

    `q_first` and `q_last` are `(rows, 1)` int64, `k_first` and `k_last` `(1, columns)`.
    """

    q_first: Tensor
    q_last: Tensor
    k_first: Tensor
    k_last: Tensor


class Tiles(NamedTuple):
    """What is known of each tile of a grid; bool, broadcastable to `(batch, heads, rows, columns)`.

    Attributes:
        some: false only where no pair of the tile is visible.
        every: true only where every pair of the tile is visible.
    """

    some: Tensor
    every: Tensor


class MaskFunction(ABC):
    """Says which keys each query may see, from (batch, head, query, key) positions.

    Called with integer tensors that broadcast, it returns a bool tensor.

    It also answers for whole tiles, from their first and last positions. Those answers may be
    imprecise in one direction only: see `Tiles`. Thanks to them nobody has to look at all
    `q_len * kv_len` positions to find the keys that a block of queries needs.
    """

    @abstractmethod
    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        """Whether query `q` may see key `k`, in batch row `b` and head `h`; elementwise."""

    @abstractmethod
    def tiles(self, grid: Grid) -> Tiles:
        """What is known of each tile of a grid."""

    @property
    @abstractmethod
    def scale(self) -> int:
        """How many tokens a picture needs to show the shape of the pattern."""

    @property
    def batch(self) -> int | None:
        """How many batch rows it is made for; None if all rows are alike."""
        return None

    @property
    def heads(self) -> int | None:
        """How many query heads it is made for; None if all heads are alike."""
        return None

    @property
    def limit(self) -> int | None:
        """How many tokens it is made for; None if any number."""
        return None

    def spans(self, query: int) -> tuple[Span, ...] | None:
        """The keys that one query sees, ascending, none empty; None without a formula for them."""
        return None

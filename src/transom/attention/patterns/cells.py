"""How many pairs of each square cell of a pattern are visible; exact, few positions looked at."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from transom.attention.patterns.mask_function import Grid, MaskFunction

__all__ = ["Cells", "cells"]

PARTS = 16  # each way, into which a large undecided tile is cut
LOOKED_AT = 32  # the longest side of a tile whose single positions are looked at
AT_ONCE = 1 << 20  # positions that are looked at together; bounds the scratch memory


class Cells(NamedTuple):
    """A pattern in square cells; the last cells may be smaller.

    Attributes:
        visible: `(n, n)` int64, how many (query, key) pairs of each cell are visible.
        size: `(n, n)` int64, how many pairs each cell has.
        side: how many queries, and how many keys, a whole cell has.
    """

    visible: Tensor
    size: Tensor
    side: int

    @property
    def fraction(self) -> float:
        """Visible pairs, as a fraction of all pairs."""
        return int(self.visible.sum()) / int(self.size.sum())


class _Edges(NamedTuple):
    """First and last positions of tiles on one side, both included, `(n,)` int64."""

    first: Tensor
    last: Tensor

    @property
    def lengths(self) -> Tensor:
        return self.last - self.first + 1

    def take(self, which: Tensor) -> _Edges:
        return _Edges(self.first[which], self.last[which])

    def cut(self, side: int) -> tuple[_Edges, Tensor]:
        """Parts of at most `side` positions, and the index of the tile that each part is from."""
        starts = self.first[:, None] + torch.arange(0, int(self.lengths.max()), side, device="cpu")
        of, part = (starts <= self.last[:, None]).nonzero(as_tuple=True)
        first = starts[of, part]
        return _Edges(first, torch.minimum(first + side - 1, self.last[of])), of


def cells(pattern: MaskFunction, length: int, most: int) -> Cells:
    """The cells of a pattern at `length` queries and keys, in its first batch row and head.

    Single positions are looked at only in tiles that the pattern leaves undecided.

    Args:
        most: how many cells there may be each way. Up to that length, each cell is one position.
    """
    side = -(-length // most)
    ends = torch.tensor([0, length - 1], device="cpu")
    edges, _ = _Edges(ends[:1], ends[1:]).cut(side)
    visible = _count(pattern, edges, edges)
    return Cells(visible, edges.lengths[:, None] * edges.lengths, side)


def _count(pattern: MaskFunction, q: _Edges, k: _Edges) -> Tensor:
    """Visible pairs of each tile, `(q tiles, k tiles)` int64."""
    known = pattern.tiles(Grid(q.first[:, None], q.last[:, None], k.first[None], k.last[None]))
    shape = (len(q.first), len(k.first))
    # Where batch rows or heads differ, those of the first.
    some, every = (tiles[(0,) * (tiles.ndim - 2)].expand(shape) for tiles in known)
    counts = every * (q.lengths[:, None] * k.lengths)
    undecided = some & ~every
    side = max(int(q.lengths.max()), int(k.lengths.max()))
    if not bool(undecided.any()):
        return counts
    if side <= LOOKED_AT:
        for part in undecided.nonzero().split(max(1, AT_ONCE // side**2)):
            rows, columns = part.T
            counts[rows, columns] = _look(pattern, q.take(rows), k.take(columns))
        return counts
    for row in undecided.any(1).nonzero().flatten():
        columns = undecided[row].nonzero().flatten()
        q_parts, _ = q.take(row[None]).cut(-(-side // PARTS))
        k_parts, of = k.take(columns).cut(-(-side // PARTS))
        counts[row].index_add_(0, columns[of], _count(pattern, q_parts, k_parts).sum(0))
    return counts


def _look(pattern: MaskFunction, q: _Edges, k: _Edges) -> Tensor:
    """Visible pairs of each tile, `(tiles,)` int64, by looking at every position."""
    queries = q.first[:, None, None] + torch.arange(int(q.lengths.max()), device="cpu")[:, None]
    keys = k.first[:, None, None] + torch.arange(int(k.lengths.max()), device="cpu")
    q_last, k_last = q.last[:, None, None], k.last[:, None, None]
    first = torch.zeros((), dtype=torch.int64, device="cpu")
    visible = pattern(first, first, queries.clamp(max=q_last), keys.clamp(max=k_last))
    return (visible & (queries <= q_last) & (keys <= k_last)).sum((1, 2))

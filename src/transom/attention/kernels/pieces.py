"""The work of block-sparse attention, cut into pieces that threads share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from torch import Tensor

from transom.attention.kernels.workers import share
from transom.attention.patterns.layout import Layout, QueryBlock

__all__ = ["Piece", "run_pieces"]

SCORES_AT_ONCE = 1 << 20  # about as many numbers as the cache of a core holds between two steps
WORTH_THREADS = 1 << 22  # scores in all; for fewer, starting threads takes longer than it saves


class Piece(NamedTuple):
    """What is computed at once: a block of queries, in some heads of one batch row."""

    row: int
    heads: slice
    kv_heads: slice
    block: QueryBlock

    def queries(self, x: Tensor) -> Tensor:
        """The part of `x`, `(batch, heads, q_len, dim)`; a view `(kv, group, queries, dim)`."""
        part = x[self.row, self.heads, slice(*self.block.queries)]
        view: Tensor = part.unflatten(0, (self.kv_heads.stop - self.kv_heads.start, -1))
        return view

    def keys(self, x: Tensor) -> list[Tensor]:
        """The parts of `x`, `(batch, kv_heads, kv_len, dim)`; views `(kv, keys, dim)`."""
        return [x[self.row, self.kv_heads, start:stop] for start, stop in self.block.keys]


def run_pieces(
    work: Callable[[Iterable[Piece]], None], q: Tensor, k: Tensor, layout: Layout
) -> None:
    """Run `work` on all pieces, on several threads if there is enough to do.

    Args:
        q: `(batch, heads, q_len, head_dim)`; its sizes and device count.
        k: `(batch, kv_heads, kv_len, head_dim)`; its sizes count.
        layout: the pattern at this size.
    """
    scores = layout.columns * q.shape[0] * q.shape[1]
    share(work, list(_pieces(q, k, layout)), q.device, alone=scores < WORTH_THREADS)


def _pieces(q: Tensor, k: Tensor, layout: Layout) -> Iterator[Piece]:
    """Pieces of at most `SCORES_AT_ONCE` scores, if one kv head and one block have no more."""
    group = q.shape[1] // k.shape[1]
    for rows, heads, blocks in layout.groups:
        for block in blocks:
            scores = group * len(block.queries) * max(1, block.columns)
            # All pieces get equally many kv heads: a smaller last piece costs more than it saves.
            together = max(
                n
                for n in range(1, k.shape[1] + 1)
                if k.shape[1] % n == 0 and n <= max(1, SCORES_AT_ONCE // scores)
            )
            for head in _head_slices(heads, group, k.shape[1], together):
                for row in range(q.shape[0]) if rows is None else rows:
                    yield Piece(row, *head, block)


def _head_slices(
    heads: tuple[int, ...] | None, group: int, kv_heads: int, together: int
) -> Iterator[tuple[slice, slice]]:
    """Slices of query heads and of their kv heads.

    Args:
        heads: the query heads, ascending; a slice then has neighbours of one group. With None, all
            heads: a slice then has `together` whole groups.
        group: query heads per kv head.
    """
    if heads is None:
        for first in range(0, kv_heads, together):
            stop = min(first + together, kv_heads)
            yield slice(first * group, stop * group), slice(first, stop)
        return
    start = previous = heads[0]
    for head in (*heads[1:], None):
        if head is None or head != previous + 1 or head // group != start // group:
            yield slice(start, previous + 1), slice(start // group, start // group + 1)
            start = head or 0
        previous = head or 0

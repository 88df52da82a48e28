"""A pattern in blocks: the keys that each block of queries needs, and masks for their edges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from transom.attention.modes import lasting
from transom.attention.patterns.mask_function import Grid, MaskFunction
from transom.policies import Span

__all__ = ["Group", "Layout", "QueryBlock", "layout"]

CPU = torch.device("cpu")
BLOCK = 64  # of queries and of keys
ALIGNED = 16  # columns; a softmax over rows of other lengths is up to a third slower
TILES_AT_ONCE = 64  # bounds the scratch memory while single positions are looked at


class QueryBlock(NamedTuple):
    """Some neighbouring queries and the keys that they see.

    Attributes:
        queries: indices of the queries; the first query of the pass has index 0.
        keys: the keys to gather, in this order. Together they are the columns of the block.
        hidden: masks for the columns that only some of the queries see: the first column of the
            mask, and the mask, `(queries, columns)` bool, true where a key is hidden.
        blind: `(queries,)` bool, true for queries that see no key; None if every query sees one.
    """

    queries: Span
    keys: tuple[Span, ...]
    hidden: tuple[tuple[int, Tensor], ...] = ()
    blind: Tensor | None = None

    @property
    def columns(self) -> int:
        """How many keys the block has."""
        return sum(len(span) for span in self.keys)

    def to(self, device: torch.device) -> QueryBlock:
        """The same block, with its masks on `device`."""
        hidden = tuple((column, mask.to(device)) for column, mask in self.hidden)
        blind = None if self.blind is None else self.blind.to(device)
        return self._replace(hidden=hidden, blind=blind)


class Group(NamedTuple):
    """Batch rows and query heads that have the same blocks; None stands for all of them."""

    rows: tuple[int, ...] | None
    heads: tuple[int, ...] | None
    blocks: tuple[QueryBlock, ...]


@dataclass(frozen=True, eq=False)
class Layout:
    """A pattern at one size, in blocks of queries.

    Attributes:
        pairs: how many (query, key) pairs are visible; the mean over batch rows and heads.
        groups: together they have each batch row and head once.
    """

    pairs: float
    groups: tuple[Group, ...]

    @property
    def columns(self) -> float:
        """How many (query, column) pairs are computed; the mean over batch rows and heads."""
        weights = [len(g.rows or (0,)) * len(g.heads or (0,)) for g in self.groups]
        computed = [sum(len(b.queries) * b.columns for b in g.blocks) for g in self.groups]
        return float(np.average(computed, weights=weights))


@lru_cache(maxsize=64)
@lasting
def layout(
    pattern: MaskFunction,
    q_len: int,
    kv_len: int,
    device: torch.device = CPU,
    q_block: int = BLOCK,
    k_block: int = BLOCK,
) -> Layout:
    """The blocks of a pattern for `q_len` queries and `kv_len` keys; kept for the next call.

    The last query is at the last key. Single positions are looked at only in tiles that the
    pattern leaves undecided.

    Args:
        device: where the masks shall be.
        q_block, k_block: queries and keys per tile.
    """
    if q_len == 1 and (spans := pattern.spans(kv_len - 1)) is not None:
        return _of_one_query(spans, kv_len, device)
    tiling = _Tiling(pattern, q_len, kv_len, q_block, k_block)
    alike: dict[tuple[bytes, ...], list[tuple[int, int]]] = {}
    for b in range(tiling.batch):
        for h in range(tiling.heads):
            alike.setdefault(tiling.signature(b, h), []).append((b, h))
    groups = []
    for members in alike.values():
        blocks = tuple(block.to(device) for block in tiling.blocks(*members[0]))
        for rows, heads in _rectangles(members):
            groups.append(
                Group(
                    None if pattern.batch is None else rows,
                    None if pattern.heads is None else heads,
                    blocks,
                )
            )
    return Layout(tiling.pairs / (tiling.batch * tiling.heads), tuple(groups))


class _Tiling:
    """Every tile of a pattern, decided: visible or not, and a mask if it is partly visible."""

    def __init__(
        self, pattern: MaskFunction, q_len: int, kv_len: int, q_block: int, k_block: int
    ) -> None:
        self.batch, self.heads = pattern.batch or 1, pattern.heads or 1
        self.offset = offset = kv_len - q_len
        q_first = torch.arange(offset, kv_len, q_block, device="cpu")
        k_first = torch.arange(0, kv_len, k_block, device="cpu")
        q_last = (q_first + q_block).clamp(max=kv_len) - 1
        k_last = (k_first + k_block).clamp(max=kv_len) - 1
        self.grid = Grid(q_first[:, None], q_last[:, None], k_first[None], k_last[None])
        shape = (self.batch, self.heads, len(q_first), len(k_first))
        some, every = (known.expand(shape).clone() for known in pattern.tiles(self.grid))
        every &= some
        area = (q_last - q_first + 1)[:, None] * (k_last - k_first + 1)
        self.pairs = int((every * area).sum())
        self.masks: dict[tuple[int, ...], Tensor] = {}
        self._same: dict[bytes, Tensor] = {}
        undecided = (some & ~every).nonzero()
        for at in range(0, len(undecided), TILES_AT_ONCE):
            self._look(pattern, undecided[at : at + TILES_AT_ONCE], some)
        self.some = some.numpy()
        self.bounds = [edge.flatten().tolist() for edge in self.grid]

    def _look(self, pattern: MaskFunction, part: Tensor, some: Tensor) -> None:
        """Decide tiles, `(tiles, 4)`: the indices of row, head, block of queries, block of keys."""
        b, h, i, j = part.T[:, :, None, None]
        grid = self.grid
        q_first, q_last = (edge[i.flatten()][:, :, None] for edge in grid[:2])
        k_first, k_last = (edge[0, j.flatten()][:, None, None] for edge in grid[2:])
        q = q_first + torch.arange(int((q_last - q_first).max()) + 1, device="cpu")[:, None]
        k = k_first + torch.arange(int((k_last - k_first).max()) + 1, device="cpu")
        visible = pattern(b, h, torch.minimum(q, q_last), torch.minimum(k, k_last))
        visible = visible.expand(len(part), q.shape[1], k.shape[2])
        inside = (q <= q_last) & (k <= k_last)
        counts = (visible & inside).sum((1, 2)).tolist()
        for place, mask, count, rows, columns in zip(
            part.tolist(),
            visible.numpy(),
            counts,
            (q_last - q_first + 1).flatten().tolist(),
            (k_last - k_first + 1).flatten().tolist(),
            strict=True,
        ):
            self.pairs += count
            some[tuple(place)] = count > 0
            if 0 < count < rows * columns:
                mask = mask[:rows, :columns]
                content = rows.to_bytes(4) + mask.tobytes()
                if content not in self._same:
                    self._same[content] = torch.from_numpy(mask.copy())
                self.masks[tuple(place)] = self._same[content]

    def signature(self, b: int, h: int) -> tuple[bytes, ...]:
        """A key that is equal for batch rows and heads whose blocks are equal."""
        masks = [
            np.array([i, j, id(mask)]).tobytes()
            for (row, head, i, j), mask in self.masks.items()
            if (row, head) == (b, h)
        ]
        return (self.some[b, h].tobytes(), *masks)

    def blocks(self, b: int, h: int) -> Iterator[QueryBlock]:
        """The blocks of one batch row and head."""
        q_first, q_last, k_first, k_last = self.bounds
        for i, visible in enumerate(self.some[b, h]):
            spans: list[Span] = []
            hidden: list[tuple[int, Tensor]] = []
            columns = 0
            rows = q_last[i] - q_first[i] + 1
            seeing = torch.zeros(rows, dtype=torch.bool, device="cpu")
            numbers = np.flatnonzero(visible)
            partial = np.array([(b, h, i, j) in self.masks for j in numbers.tolist()], dtype=bool)
            apart = (np.diff(numbers) > 1) | partial[1:] | partial[:-1]
            for run in np.split(numbers, np.flatnonzero(apart) + 1) if len(numbers) else ():
                start, stop = k_first[run[0]], k_last[run[-1]] + 1
                mask = self.masks.get((b, h, i, int(run[0])))
                if mask is None:
                    seeing[:] = True
                else:
                    seeing |= mask.any(1)
                    wanted = mask.any(0).nonzero().flatten()
                    first = int(wanted[0]) // ALIGNED * ALIGNED
                    last = min(-(-int(wanted[-1] + 1) // ALIGNED) * ALIGNED, stop - start)
                    start, stop = start + first, start + last
                    mask = mask[:, first:last]
                    if not bool(mask.all()):
                        hidden.append((columns, ~mask))
                columns += stop - start
                if spans and spans[-1].stop == start:
                    start = spans.pop().start
                spans.append(Span(start, stop))
            yield QueryBlock(
                Span(q_first[i] - self.offset, q_last[i] + 1 - self.offset),
                tuple(spans),
                tuple(hidden),
                None if bool(seeing.all()) else ~seeing,
            )


def _of_one_query(spans: tuple[Span, ...], kv_len: int, device: torch.device) -> Layout:
    keys = tuple(Span(s.start, min(s.stop, kv_len)) for s in spans if s.start < kv_len)
    blind = None if keys else torch.ones(1, dtype=torch.bool, device=device)
    block = QueryBlock(Span(0, 1), keys, blind=blind)
    return Layout(block.columns, (Group(None, None, (block,)),))


def _rectangles(
    members: list[tuple[int, int]],
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(row, head) pairs as rectangles of rows by heads: rows with the same heads go together."""
    heads_of: dict[int, list[int]] = {}
    for row, head in members:
        heads_of.setdefault(row, []).append(head)
    rows_of: dict[tuple[int, ...], list[int]] = {}
    for row, heads in heads_of.items():
        rows_of.setdefault(tuple(heads), []).append(row)
    return [(tuple(rows), heads) for heads, rows in rows_of.items()]

"""Attention in blocks of queries, each with the keys it sees and no others; plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from transom.attention.compiling import uncompiled
from transom.attention.kernels.products import multiplied_in
from transom.attention.kernels.workers import share
from transom.attention.patterns.layout import Layout, QueryBlock

__all__ = ["Apart", "block_sparse"]

SCORES_AT_ONCE = 1 << 20  # numbers: about what a core's cache holds from one step to the next
WORTH_THREADS = 1 << 22  # scores in all, below which starting threads takes longer


class Piece(NamedTuple):
    """What is computed at once: a block of queries in some heads of a row of the batch."""

    row: int
    heads: slice
    kv_heads: slice
    block: QueryBlock

    def queries(self, x: Tensor) -> Tensor:
        """Of `(batch, heads, q_len, dim)` its own part, a view `(kv, group, queries, dim)`."""
        mine = x[self.row, self.heads, slice(*self.block.queries)]
        view: Tensor = mine.unflatten(0, (self.kv_heads.stop - self.kv_heads.start, -1))
        return view

    def keys(self, x: Tensor) -> list[Tensor]:
        """Of `(batch, kv_heads, kv_len, dim)` its own parts, views `(kv, keys, dim)`."""
        return [x[self.row, self.kv_heads, start:stop] for start, stop in self.block.keys]


class Apart(NamedTuple):
    """Keys that every query sees from elsewhere: with queries of their own, turned to meet them.

    Attributes:
        q: `(batch, heads, q_len, head_dim)`.
        k: `(batch, kv_heads, keys, head_dim)`.
        v: `(batch, kv_heads, keys, value_dim)`.
        hidden: `(q_len, keys)` bool, who does not see whom after all; None when all see all.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    hidden: Tensor | None = None


class Scratch:
    """Scratch memory for one thread, used again for every block."""

    def __init__(self) -> None:
        self._taken: dict[str, Tensor] = {}

    def take(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """Uninitialised room of that shape, in the dtype and on the device of `like`."""
        size = math.prod(shape)
        taken = self._taken.get(name)
        if taken is None or taken.numel() < size:
            taken = self._taken[name] = like.new_empty(size)
        room: Tensor = taken[:size].view(shape)
        return room


def block_sparse(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, apart: Apart | None = None
) -> Tensor:
    """Attention output, `(batch, heads, q_len, value_dim)`; differentiable once.

    Each block of queries gathers its keys; two matrix products with a softmax between them are all
    that happens, and scratch memory is that of a block per thread. In half precision scores are
    rounded to it, as in plain attention without a fused kernel; where the processor multiplies
    float32 sooner, all is computed in that, from copies. Queries that see nothing give zeros.

    Args:
        q: `(batch, heads, q_len, head_dim)`.
        k: `(batch, kv_heads, kv_len, head_dim)`; a whole number of query heads share each.
        v: `(batch, kv_heads, kv_len, value_dim)`.
        layout: the pattern at this size.
        scale: of the scores.
        apart: keys besides those of the layout, in the same softmax.
    """
    dtype = multiplied_in(q)
    if dtype != q.dtype:
        if apart is not None:
            q_apart, k_apart, v_apart = (x.to(dtype) for x in apart[:3])
            apart = Apart(q_apart, k_apart, v_apart, apart.hidden)
        wide = block_sparse(q.to(dtype), k.to(dtype), v.to(dtype), layout, scale, apart)
        return wide.to(q.dtype)
    others = () if apart is None else apart[:3]
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, *others)):
        hidden = None if apart is None else apart.hidden
        out: Tensor = _Differentiable.apply(  # type: ignore[no-untyped-call]
            layout, scale, hidden, q, k, v, *others
        )
    else:
        out = _forward(q.detach(), k.detach(), v.detach(), layout, scale, apart)
    return out


@uncompiled
def _forward(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, apart: Apart | None = None
) -> Tensor:
    out: Tensor = q.new_empty(*q.shape[:3], v.shape[3])

    def work(pieces: Iterable[Piece]) -> None:
        room = Scratch()
        for piece in pieces:
            target = piece.queries(out)
            if not piece.block.columns and apart is None:
                target.zero_()
                continue
            first = [] if apart is None else [apart.v[piece.row, piece.kv_heads]]
            values = _joined([*first, *piece.keys(v)], "v", room)
            weights = _weights(piece, q, k, scale, room, apart)
            result = room.take("out", values, *weights.shape[:2], values.shape[2])
            target.copy_(torch.bmm(weights, values, out=result).view(target.shape))

    _run(work, q, k, layout)
    return out


class _Differentiable(torch.autograd.Function):
    """The same with a backward pass that computes each block again instead of keeping it."""

    @staticmethod
    def forward(
        ctx: Any, layout: Layout, scale: float, hidden: Tensor | None, *states: Tensor
    ) -> Tensor:
        q, k, v, *others = states
        out: Tensor = _forward(q, k, v, layout, scale, _apart(others, hidden))
        ctx.save_for_backward(out, *states)
        ctx.layout, ctx.scale, ctx.hidden = layout, scale, hidden
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Any, ...]:
        out, q, k, v, *others = ctx.saved_tensors
        apart = _apart(others, ctx.hidden)
        return (None, None, None, *_backward(q, k, v, out, d_out, ctx.layout, ctx.scale, apart))


def _apart(others: list[Tensor], hidden: Tensor | None) -> Apart | None:
    return Apart(others[0], others[1], others[2], hidden) if others else None


@uncompiled
def _backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    d_out: Tensor,
    layout: Layout,
    scale: float,
    apart: Apart | None = None,
) -> list[Tensor]:
    """The gradients of queries, keys and values, and then of those that are apart."""
    states = [q, k, v] if apart is None else [q, k, v, *apart[:3]]
    d_queries = [torch.zeros_like(x) for x in states[::3]]
    sums: list[list[Tensor]] = []

    def work(pieces: Iterable[Piece]) -> None:
        room = Scratch()
        # Blocks share keys, so every thread adds up its own, in float32 at least.
        d_k, d_v, *d_apart = shared = [
            torch.zeros(x.shape, dtype=_summed(x), device=x.device)
            for number, x in enumerate(states)
            if number % 3
        ]
        sums.append(shared)
        for piece in pieces:
            if not piece.block.columns and apart is None:
                continue
            weights = _weights(piece, q, k, scale, room, apart)
            here = piece.row, piece.kv_heads
            first_k, first_v = ([], []) if apart is None else ([apart.k[here]], [apart.v[here]])
            keys = _joined([*first_k, *piece.keys(k)], "k", room)
            values = _joined([*first_v, *piece.keys(v)], "v", room)
            shape = (*weights.shape[:2], values.shape[2])
            d_result = room.take("d_out", values, *shape).view(piece.queries(d_out).shape)
            d_result.copy_(piece.queries(d_out))
            inner = (d_result * piece.queries(out)).sum(-1, dtype=_summed(out))
            d_result = d_result.view(shape)
            d_first_k, d_first_v = ([x[here]] for x in d_apart) if d_apart else ([], [])
            _add([*d_first_v, *piece.keys(d_v)], torch.bmm(weights.transpose(1, 2), d_result))
            d_scores = room.take("d_scores", weights, *weights.shape)
            torch.bmm(d_result, values.transpose(1, 2), out=d_scores)
            d_scores.sub_(inner.view(*weights.shape[:2], 1)).mul_(weights)
            ahead = first_k[0].shape[1] if first_k else 0
            met = ((slice(ahead, None), piece.keys(d_k)), (slice(ahead), d_first_k))
            for x, d_x, (columns, d_keys) in zip(states[::3], d_queries, met, strict=False):
                mine = (piece.queries(x) * scale).reshape(*weights.shape[:2], -1)
                _add(d_keys, torch.bmm(d_scores[..., columns].transpose(1, 2), mine))
                target = piece.queries(d_x)
                found = torch.bmm(d_scores[..., columns], keys[:, columns])
                target.copy_(found.mul_(scale).view(target.shape))

    _run(work, q, k, layout)
    d_shared = iter(
        torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
        for parts in zip(*sums, strict=True)
    )
    d_states = [
        next(d_shared).to(x.dtype) if number % 3 else d_queries[number // 3]
        for number, x in enumerate(states)
    ]
    return d_states


def _summed(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _weights(
    piece: Piece, q: Tensor, k: Tensor, scale: float, room: Scratch, apart: Apart | None = None
) -> Tensor:
    """Attention of a piece, `(kv, group * queries, columns)`; leaves scaled queries in `room`.

    Keys that are apart come first.
    """
    source = piece.queries(q)
    kv, group, rows, dim = source.shape
    first = [] if apart is None else [apart.k[piece.row, piece.kv_heads]]
    keys = _joined([*first, *piece.keys(k)], "k", room, packed=k.dtype != torch.float32)
    scores = room.take("scores", keys, kv, group * rows, keys.shape[1])
    by_query = scores.view(kv, group, rows, -1)
    queries = room.take("q", source, *source.shape)
    torch.mul(source, scale, out=queries)
    torch.bmm(queries.view(kv, group * rows, dim), keys.transpose(1, 2), out=scores)
    ahead = 0
    if apart is not None:
        # Written over: their product with these queries is not the one they are to be seen by.
        ahead = first[0].shape[1]
        rotated = (piece.queries(apart.q) * scale).reshape(kv, group * rows, dim)
        met = torch.bmm(rotated, first[0].transpose(1, 2)).view(kv, group, rows, ahead)
        if apart.hidden is not None:
            met.masked_fill_(apart.hidden[slice(*piece.block.queries)], -math.inf)
        by_query[..., :ahead] = met
    for column, hidden in piece.block.hidden:
        by_query[..., ahead + column : ahead + column + hidden.shape[1]].masked_fill_(
            hidden, -math.inf
        )
    weights = room.take("weights", scores, *scores.shape)
    torch.softmax(scores, -1, out=weights)
    blind = piece.block.blind
    if blind is not None and apart is not None:
        if apart.hidden is None:
            blind = None
        else:
            blind = blind & apart.hidden[slice(*piece.block.queries)].all(1)
    if blind is not None:
        weights.view(by_query.shape).masked_fill_(blind[:, None], 0)
    return weights


def _joined(parts: list[Tensor], name: str, room: Scratch, packed: bool = False) -> Tensor:
    """Stretches of keys or values as one, `(kv, columns, dim)`.

    A single one is not copied unless it is to be `packed`: given transposed keys of half precision
    that are not, a product of matrices makes a copy of its own, and takes longer over it.
    """
    if len(parts) == 1 and not packed:
        return parts[0]
    shape = len(parts[0]), sum(part.shape[1] for part in parts), parts[0].shape[2]
    return torch.cat(parts, 1, out=room.take(name, parts[0], *shape))


def _add(targets: list[Tensor], values: Tensor) -> None:
    sizes = [target.shape[1] for target in targets]
    for target, value in zip(targets, values.split(sizes, 1), strict=True):
        target.add_(value)


def _run(work: Callable[[Iterable[Piece]], None], q: Tensor, k: Tensor, layout: Layout) -> None:
    pieces = list(_pieces(q, k, layout))
    scores = layout.columns * q.shape[0] * q.shape[1]
    share(work, pieces, q.device, alone=scores < WORTH_THREADS)


def _pieces(q: Tensor, k: Tensor, layout: Layout) -> Iterator[Piece]:
    """Pieces of work, none larger than can be helped."""
    group = q.shape[1] // k.shape[1]
    for rows, heads, blocks in layout.groups:
        for block in blocks:
            scores = group * len(block.queries) * max(1, block.columns)
            # Equal parts: a smaller last one has been seen to cost more than it saves.
            together = max(
                n
                for n in range(1, k.shape[1] + 1)
                if k.shape[1] % n == 0 and n <= max(1, SCORES_AT_ONCE // scores)
            )
            for head in _neighbours(heads, group, k.shape[1], together):
                for row in range(q.shape[0]) if rows is None else rows:
                    yield Piece(row, *head, block)


def _neighbours(
    heads: tuple[int, ...] | None, group: int, kv_heads: int, together: int
) -> Iterator[tuple[slice, slice]]:
    """Query heads and their kv heads, so many kv heads at a time; or of each, those chosen."""
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

"""The backward pass of block-sparse attention, which computes the weights of each block again."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from transom.attention.compiling import uncompiled
from transom.attention.kernels.block_weights import Apart, Scratch, gathered, weights_of
from transom.attention.kernels.pieces import Piece, run_pieces
from transom.attention.patterns.layout import Layout

__all__ = ["gradients"]


@uncompiled
def gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    d_out: Tensor,
    layout: Layout,
    scale: float,
    apart: Apart | None = None,
) -> list[Tensor]:
    """The gradients of queries, keys and values, then those of `apart` if it is given.

    Args:
        q: `(batch, heads, q_len, head_dim)`.
        k: `(batch, kv_heads, kv_len, head_dim)`.
        v: `(batch, kv_heads, kv_len, value_dim)`.
        out: what attention gave, `(batch, heads, q_len, value_dim)`.
        d_out: the gradient of `out`.
        layout: the pattern at this size.
        scale: of the scores.
        apart: keys besides those of the layout.
    """
    states = [q, k, v] if apart is None else [q, k, v, *apart[:3]]
    d_queries = [torch.zeros_like(x) for x in states[::3]]
    sums: list[list[Tensor]] = []

    def work(pieces: Iterable[Piece]) -> None:
        scratch = Scratch()
        # Blocks share keys, so each thread has sums of its own, at least in float32.
        d_k, d_v, *d_apart = shared = [
            torch.zeros(x.shape, dtype=_summed(x), device=x.device)
            for number, x in enumerate(states)
            if number % 3
        ]
        sums.append(shared)
        for piece in pieces:
            if not piece.block.columns and apart is None:
                continue
            weights = weights_of(piece, q, k, scale, scratch, apart)
            here = piece.row, piece.kv_heads
            first_k, first_v = ([], []) if apart is None else ([apart.k[here]], [apart.v[here]])
            keys = gathered([*first_k, *piece.keys(k)], "k", scratch)
            values = gathered([*first_v, *piece.keys(v)], "v", scratch)
            shape = (*weights.shape[:2], values.shape[2])
            d_result = scratch.take("d_out", values, *shape).view(piece.queries(d_out).shape)
            d_result.copy_(piece.queries(d_out))
            inner = (d_result * piece.queries(out)).sum(-1, dtype=_summed(out))
            d_result = d_result.view(shape)
            d_first_k, d_first_v = ([x[here]] for x in d_apart) if d_apart else ([], [])
            _add([*d_first_v, *piece.keys(d_v)], torch.bmm(weights.transpose(1, 2), d_result))
            d_scores = scratch.take("d_scores", weights, *weights.shape)
            torch.bmm(d_result, values.transpose(1, 2), out=d_scores)
            d_scores.sub_(inner.view(*weights.shape[:2], 1)).mul_(weights)
            ahead = first_k[0].shape[1] if first_k else 0
            # Each kind of query with the columns of the keys that it meets.
            met = ((slice(ahead, None), piece.keys(d_k)), (slice(ahead), d_first_k))
            for x, d_x, (columns, d_keys) in zip(states[::3], d_queries, met, strict=False):
                queries = (piece.queries(x) * scale).reshape(*weights.shape[:2], -1)
                _add(d_keys, torch.bmm(d_scores[..., columns].transpose(1, 2), queries))
                target = piece.queries(d_x)
                found = torch.bmm(d_scores[..., columns], keys[:, columns])
                target.copy_(found.mul_(scale).view(target.shape))

    run_pieces(work, q, k, layout)
    d_shared = iter(
        torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
        for parts in zip(*sums, strict=True)
    )
    return [
        next(d_shared).to(x.dtype) if number % 3 else d_queries[number // 3]
        for number, x in enumerate(states)
    ]


def _summed(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _add(targets: list[Tensor], values: Tensor) -> None:
    """Add to each target its part of `values`, `(kv, columns, dim)`, column after column."""
    sizes = [target.shape[1] for target in targets]
    for target, value in zip(targets, values.split(sizes, 1), strict=True):
        target.add_(value)

"""Attention in blocks of queries, each with the keys that it sees and no others; plain torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from transom.attention.compiling import uncompiled
from transom.attention.kernels.block_gradient import gradients
from transom.attention.kernels.block_weights import Apart, Scratch, gathered, weights_of
from transom.attention.kernels.pieces import Piece, run_pieces
from transom.attention.kernels.products import multiplied_in
from transom.attention.patterns.layout import Layout

__all__ = ["Apart", "block_sparse"]


def block_sparse(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, apart: Apart | None = None
) -> Tensor:
    """Attention output, `(batch, heads, q_len, value_dim)`; differentiable once.

    Each block of queries gathers its keys, then computes two matrix products with a softmax
    between them. Each thread needs the scratch memory of one block. Queries that see no key give
    zeros.

    In half precision, scores have that precision too, as in attention without a fused kernel. If
    the processor multiplies float32 faster, everything is computed in float32, from copies.

    Args:
        q: `(batch, heads, q_len, head_dim)`.
        k: `(batch, kv_heads, kv_len, head_dim)`; `heads` is a multiple of `kv_heads`.
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
        scratch = Scratch()
        for piece in pieces:
            target = piece.queries(out)
            if not piece.block.columns and apart is None:
                target.zero_()
                continue
            first = [] if apart is None else [apart.v[piece.row, piece.kv_heads]]
            values = gathered([*first, *piece.keys(v)], "v", scratch)
            weights = weights_of(piece, q, k, scale, scratch, apart)
            result = scratch.take("out", values, *weights.shape[:2], values.shape[2])
            target.copy_(torch.bmm(weights, values, out=result).view(target.shape))

    run_pieces(work, q, k, layout)
    return out


class _Saved(Protocol):
    """What the forward pass leaves for the backward pass."""

    layout: Layout
    scale: float
    hidden: Tensor | None

    def save_for_backward(self, *tensors: Tensor) -> None: ...

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]: ...


class _Differentiable(torch.autograd.Function):
    """`_forward` with a gradient."""

    @staticmethod
    def forward(
        ctx: _Saved, layout: Layout, scale: float, hidden: Tensor | None, *states: Tensor
    ) -> Tensor:
        q, k, v, *others = states
        out: Tensor = _forward(q, k, v, layout, scale, _apart(others, hidden))
        ctx.save_for_backward(out, *states)
        ctx.layout, ctx.scale, ctx.hidden = layout, scale, hidden
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: _Saved, d_out: Tensor) -> tuple[Tensor | None, ...]:
        out, q, k, v, *others = ctx.saved_tensors
        apart = _apart(others, ctx.hidden)
        return (None, None, None, *gradients(q, k, v, out, d_out, ctx.layout, ctx.scale, apart))


def _apart(others: list[Tensor], hidden: Tensor | None) -> Apart | None:
    return Apart(others[0], others[1], others[2], hidden) if others else None

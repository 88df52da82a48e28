"""Attention by its formula, block of queries by block: for dropout, masks and score rules."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from transom.attention.compiling import uncompiled
from transom.attention.kernels.explicit import scaled_products, weighted_values
from transom.attention.patterns import Grid, Pattern
from transom.attention.score_rule import ScoreRule

__all__ = ["attend_by_blocks"]

BLOCK = 128  # queries; bounds the scratch memory


class KeySpan(NamedTuple):
    """Positions of a block of queries, and of all keys from the first that it sees to the last."""

    queries: range
    keys: range


@uncompiled  # blocks differ in shape
def attend_by_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    *,
    rule: ScoreRule,
    mask: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention output, `(batch, heads, q_len, value_dim)`; zeros where a query sees nothing.

    Args:
        q: `(batch, heads, q_len, head_dim)`; the last query is at the last key.
        k: `(batch, kv_heads, kv_len, head_dim)`; `heads` is a multiple of `kv_heads`.
        v: `(batch, kv_heads, kv_len, value_dim)`.
        pattern: who sees whom.
        rule: how scores become weights.
        mask: `(batch or 1, heads or 1, q_len, kv_len)`; either bool, and a query sees the keys
            that mask and pattern both let through; or floating, and added to the scores.
        dropout: probability that an attention weight is set to zero.

    Scratch memory is that of one block of queries, never `q_len * kv_len`. In training, the weights
    of a block are not stored: the backward pass computes them again.
    """
    q_len, kv_len = q.shape[2], k.shape[2]
    tracked = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in (q, k, v, mask, rule.sink_logits)
    )
    outputs = []
    for start in range(0, q_len, BLOCK):
        rows = slice(start, min(start + BLOCK, q_len))
        span = _span(pattern, rows.start + kv_len - q_len, rows.stop + kv_len - q_len, kv_len)
        columns = slice(span.keys.start, span.keys.stop)
        part = None if mask is None else mask[:, :, rows, columns]
        inputs = (q[:, :, rows], k[:, :, columns], v[:, :, columns], part)
        if tracked:
            output = checkpoint(_attend, *inputs, pattern, span, rule, dropout, use_reentrant=False)
        else:
            output = _attend(*inputs, pattern, span, rule, dropout)
        outputs.append(output)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    pattern: Pattern,
    span: KeySpan,
    rule: ScoreRule,
    dropout: float,
) -> Tensor:
    scores = rule.capped(scaled_products(q, k, rule.scale))
    visible = _visible(pattern, span, q.device)
    if mask is not None and mask.dtype == torch.bool:
        visible = visible & mask.to(q.device)
    elif mask is not None:
        bias = mask.to(scores)
        scores, visible = scores + bias, visible & (bias > -torch.inf)
    weights = rule.weights(scores, visible)
    if dropout:
        weights = F.dropout(weights, dropout)
    return weighted_values(weights, v).to(q.dtype)


def _visible(pattern: Pattern, span: KeySpan, device: torch.device) -> Tensor:
    """Which keys the queries see, `(batch or 1, heads or 1, queries, keys)` bool."""
    q = torch.arange(span.queries.start, span.queries.stop, device=device)[:, None]
    k = torch.arange(span.keys.start, span.keys.stop, device=device)
    return pattern.at(q, k)


def _span(pattern: Pattern, start: int, stop: int, kv_len: int) -> KeySpan:
    first = torch.arange(0, kv_len, BLOCK, device="cpu")
    last = (first + BLOCK - 1).clamp(max=kv_len - 1)
    start_stop = torch.tensor([[start], [stop - 1]], device="cpu")
    some = pattern.tiles(Grid(start_stop[:1], start_stop[1:], first[None], last[None])).some
    some = some.expand(*some.shape[:-1], len(first)).reshape(-1, len(first))
    seen = some.any(dim=0).nonzero().flatten().tolist() or [0]
    return KeySpan(range(start, stop), range(seen[0] * BLOCK, int(last[seen[-1]]) + 1))

"""Attention of queries that are the newest keys, with and without what each key received."""

from __future__ import annotations

import torch
from torch import Tensor

from transom.attention.kernels.explicit import KeyPart, explicit
from transom.attention.kernels.masked import masked
from transom.attention.score_rule import ScoreRule

__all__ = ["attend_and_weigh", "attend_causally"]


def attend_causally(q: Tensor, k: Tensor, v: Tensor, rule: ScoreRule) -> Tensor:
    """Causal attention, `(rows, heads, q_len, value_dim)`; arguments as for `attend_and_weigh`."""
    count, stop = q.shape[2], k.shape[2]
    seen = None
    if count > 1:
        seen = torch.ones(count, stop, dtype=torch.bool, device=q.device).tril(stop - count)
    if rule.only_scales:
        return masked(q, k, v, seen, rule.scale)
    return explicit([KeyPart(q, k, v, seen)], rule)


def attend_and_weigh(q: Tensor, k: Tensor, v: Tensor, rule: ScoreRule) -> tuple[Tensor, Tensor]:
    """Causal attention of queries that are the newest keys, and the weights that each key received.

    Args:
        q: `(rows, heads, q_len, dim)`.
        k: `(rows, kv_heads, kv_len, dim)`.
        v: `(rows, kv_heads, kv_len, value_dim)`.
        rule: how scores become weights.

    Returns:
        The output, `(rows, heads, q_len, value_dim)`; and `(rows, kv_heads, kv_len)` float32, the
        weights summed over queries and over the heads of a group.
    """
    rows, heads, count, dim = q.shape
    kv_heads, stop = k.shape[1:3]
    group = heads // kv_heads
    scores = q.reshape(rows, kv_heads, group * count, dim) @ k.transpose(2, 3) * rule.scale
    scores = rule.capped(scores).view(rows, heads, count, stop)
    if count > 1:
        later = torch.ones(count, count, dtype=torch.bool, device=q.device).triu(1)
        scores[..., stop - count :].masked_fill_(later, -torch.inf)
    weights = rule.weights(scores).reshape(rows, kv_heads, group * count, stop)
    out = weights.to(v.dtype) @ v
    return out.view(rows, heads, count, -1), weights.sum(2)

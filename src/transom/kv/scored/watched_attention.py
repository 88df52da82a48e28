"""Attention that also says how much of it each key received."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["attend_and_weigh"]


def attend_and_weigh(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Causal attention of queries that are the newest keys, and the weights that each key received.

    Args:
        q: `(rows, heads, q_len, dim)`.
        k: `(rows, kv_heads, kv_len, dim)`.
        v: `(rows, kv_heads, kv_len, value_dim)`.
        scale: of the scores.

    Returns:
        The output, `(rows, heads, q_len, value_dim)`; and `(rows, kv_heads, kv_len)` float32, the
        weights summed over queries and over the heads of a group.
    """
    rows, heads, count, dim = q.shape
    kv_heads, stop = k.shape[1:3]
    group = heads // kv_heads
    scores = q.reshape(rows, kv_heads, group * count, dim) @ k.transpose(2, 3) * scale
    scores = scores.float().view(rows, kv_heads, group, count, stop)
    if count > 1:
        later = torch.ones(count, count, dtype=torch.bool, device=q.device).triu(1)
        scores[..., stop - count :].masked_fill_(later, -torch.inf)
    weights = scores.softmax(-1)
    out = weights.flatten(2, 3).to(v.dtype) @ v
    return out.view(rows, heads, count, -1), weights.sum((2, 3))

"""PyTorch's fused attention; with a mask, block of queries by block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from transom.attention.patterns import Pattern, causal, everything

__all__ = ["dense"]

MASK_AT_ONCE = 1 << 22  # entries of a mask; bounds the scratch memory


def dense(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float) -> Tensor:
    """Attention output, `(batch, heads, q_len, value_dim)`; every score is computed.

    Args:
        q: `(batch, heads, q_len, head_dim)`.
        k: `(batch, kv_heads, kv_len, head_dim)`.
        v: `(batch, kv_heads, kv_len, value_dim)`.
        scale: of the scores.
    """
    q_len, kv_len = q.shape[2], k.shape[2]
    if pattern == everything() or (pattern == causal() and q_len in (1, kv_len)):
        return _fused(q, k, v, None, scale, is_causal=pattern == causal() and q_len > 1)
    keys = torch.arange(kv_len, device=q.device)
    rows = max(1, MASK_AT_ONCE // (kv_len * (pattern.batch or 1) * (pattern.heads or 1)))
    outputs = []
    for start in range(0, q_len, rows):
        part = q[:, :, start : start + rows]
        first = kv_len - q_len + start
        queries = torch.arange(first, first + part.shape[2], device=q.device)[:, None]
        visible = pattern.at(queries, keys)
        blind = ~visible.any(-1, keepdim=True)
        # A softmax over no keys is NaN, and so is its gradient. So queries that see no key see all
        # keys here, and their output is set to zero.
        out = _fused(part, k, v, visible | blind, scale)
        outputs.append(out.masked_fill(blind, 0))
    return torch.cat(outputs, 2)


def _fused(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, is_causal: bool = False
) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, scale=scale, is_causal=is_causal, enable_gqa=grouped
    )

"""Attention of one query, to the keys that a formula gives; without a layout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from transom.policies import Span

__all__ = ["decode"]


def decode(q: Tensor, k: Tensor, v: Tensor, spans: tuple[Span, ...], scale: float) -> Tensor:
    """Attention output, `(batch, heads, 1, value_dim)`.

    Args:
        q: `(batch, heads, 1, head_dim)`.
        k: `(batch, kv_heads, kv_len, head_dim)`.
        v: `(batch, kv_heads, kv_len, value_dim)`.
        spans: the keys that the query sees, ascending; without any, the output is zero.
        scale: of the scores.
    """
    batch, heads, _, dim = q.shape
    if not spans:
        return q.new_zeros(batch, heads, 1, v.shape[3])
    if len(spans) == 1:
        keys, values = (x[:, :, spans[0].start : spans[0].stop] for x in (k, v))
    else:
        keys, values = (torch.cat([x[:, :, a:b] for a, b in spans], 2) for x in (k, v))
    # Heads of a group see the same keys, so they are computed as several queries of one head.
    folded = q.reshape(batch, k.shape[1], heads // k.shape[1], dim)
    out = F.scaled_dot_product_attention(folded, keys, values, scale=scale)
    return out.reshape(batch, heads, 1, v.shape[3])

"""PyTorch's fused attention under a mask, with grouped heads, on any device."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["masked"]


def masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attention output, `(batch, heads, q_len, value_dim)`.

    Args:
        q: `(batch, heads, q_len, head_dim)`.
        k: `(batch, kv_heads, kv_len, head_dim)`; `heads` is a multiple of `kv_heads`.
        v: `(batch, kv_heads, kv_len, value_dim)`.
        mask: broadcastable to `(batch, heads, q_len, kv_len)`; bool, true where a query may attend,
            or float, added to the scores. None lets every query see every key.
        scale: of the scores.
    """
    groups = q.shape[1] // k.shape[1]
    gqa = groups > 1
    if gqa and mask is not None and q.device.type != "cpu":
        # On other devices, grouped heads with a mask would run on the unfused kernel.
        k, v, gqa = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), False
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=gqa)

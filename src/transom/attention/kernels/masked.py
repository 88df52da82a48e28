"""PyTorch's fused attention under a mask, with grouped heads, wherever it runs."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["masked"]


def masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attention output, `(batch, heads, q_len, value_dim)`.

    Args:
        mask: bool, or float to be added to the scores; broadcasts to `(batch, heads, q_len,
            kv_len)`. None lets everything through.
    """
    groups = q.shape[1] // k.shape[1]
    gqa = groups > 1
    if gqa and mask is not None and q.device.type != "cpu":
        # Off the CPU, grouped heads with a mask would run on the unfused kernel.
        k, v, gqa = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), False
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=gqa)

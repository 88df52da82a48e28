"""What a pattern means, slowly and obviously; every kernel is compared with it."""

from __future__ import annotations

import torch
from torch import Tensor

from transom.attention.patterns import Pattern

__all__ = ["naive"]


def naive(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float) -> Tensor:
    """Attention output, `(batch, heads, q_len, value_dim)`, from all scores at once.

    Args:
        q: `(batch, heads, q_len, head_dim)`.
        k: `(batch, kv_heads, kv_len, head_dim)`.
        v: `(batch, kv_heads, kv_len, value_dim)`.
        scale: of the scores.
    """
    batch, heads, q_len, _ = q.shape
    k, v = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v))
    visible = pattern.mask(q_len, k.shape[2], batch=batch, heads=heads).to(q.device)
    scores = (q @ k.transpose(2, 3) * scale).masked_fill(~visible, -torch.inf)
    weights = torch.softmax(scores, dim=-1)
    # A softmax over no keys is NaN; a query that sees no key gives zeros.
    return weights.masked_fill(~visible.any(-1, keepdim=True), 0) @ v

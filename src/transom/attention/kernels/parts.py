"""Attention to a part of the keys, and to two parts together."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Attended", "attend_part", "together"]

# What PyTorch's scaled_dot_product_attention runs on a CPU, which does not give out the sums.
# In a third of the time of products and a softmax, whose scores do not fit the caches.
FUSED: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)


class Attended(NamedTuple):
    """What attention to some keys gives.

    Attributes:
        out: `(..., queries, value_dim)`, the means of the values.
        sums: `(..., queries)` float32, logs of the sums of the exponents of the scores: by them
            one can tell how much attention any other key would get beside these.
    """

    out: Tensor
    sums: Tensor


def attend_part(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Attended:
    """Attention to keys that are not all that the queries see.

    Args:
        q: `(rows, kv_heads, queries, head_dim)`; the queries of a group's heads are one after the
            other.
        k: `(rows, kv_heads, keys, head_dim)`.
        v: `(rows, kv_heads, keys, value_dim)`.
        bias: added to the scores, of the dtype of `k` and as `(rows, kv_heads, queries, keys)` or
            broadcast to that: minus infinity for keys that are not seen; every query sees one at
            least. None for none.
        scale: of the scores.

    Returns:
        The output in float32.
    """
    q = q.to(k.dtype)
    differentiable = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    plain = k.device.type == "cpu" and k.shape[-1] == v.shape[-1] and not differentiable
    if FUSED is not None and plain:  # it gives the sums no gradient
        if bias is not None:
            bias = bias.expand(*q.shape[:3], k.shape[2])
        out, sums = FUSED(q, k, v, attn_mask=bias, scale=scale)
        return Attended(out.float(), sums.float())
    scores = ((q * scale) @ k.transpose(-1, -2)).float()
    if bias is not None:
        scores = scores + bias
    return Attended((scores.softmax(-1).to(v.dtype) @ v).float(), scores.logsumexp(-1))


def together(one: Attended, other: Attended) -> Attended:
    """Attention to two parts of the keys that have none in common, from that to each."""
    share = (one.sums - other.sums).sigmoid()[..., None]
    return Attended(torch.lerp(other.out, one.out, share), torch.logaddexp(one.sums, other.sums))

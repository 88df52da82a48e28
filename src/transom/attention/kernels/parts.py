"""Attention to a part of the keys, and how to join the results for two parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from transom.attention.score_rule import ScoreRule

__all__ = ["Attended", "attend_part", "together", "with_sink"]

# The kernel behind PyTorch's scaled_dot_product_attention on a CPU; called directly, it also
# returns the sums. It takes a third of the time of two products and a softmax whose scores do not
# fit the processor's caches.
FUSED: Callable[..., tuple[Tensor, Tensor]] | None = getattr(
    torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None
)


class Attended(NamedTuple):
    """The result of attention to some keys.

    Attributes:
        out: `(..., queries, value_dim)`, the weighted means of the values.
        sums: `(..., queries)` float32, the log-sum-exp of the scores. It tells how much attention
            another key would get beside these keys.
    """

    out: Tensor
    sums: Tensor


def attend_part(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, rule: ScoreRule) -> Attended:
    """Attention to some of the keys that the queries see.

    Args:
        q: `(rows, kv_heads, queries, head_dim)`; the query heads of a group follow each other along
            the queries.
        k: `(rows, kv_heads, keys, head_dim)`.
        v: `(rows, kv_heads, keys, value_dim)`.
        bias: added to the scores; in the dtype of `k`, broadcastable to `(rows, kv_heads, queries,
            keys)`. It is minus infinity for keys that a query does not see; every query must see
            at least one. None adds nothing.
        rule: how scores become weights. Its sink is left out: `with_sink` adds it, once.

    Returns:
        Output and sums, both in float32.
    """
    q = q.to(k.dtype)
    differentiable = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    plain = k.device.type == "cpu" and k.shape[-1] == v.shape[-1] and not differentiable
    if FUSED is not None and plain and rule.softcap is None:  # its sums have no gradient
        if bias is not None:
            bias = bias.expand(*q.shape[:3], k.shape[2])
        out, sums = FUSED(q, k, v, attn_mask=bias, scale=rule.scale)
        return Attended(out.float(), sums.float())
    scores = rule.capped((q * rule.scale) @ k.transpose(-1, -2))
    if bias is not None:
        scores = scores + bias
    return Attended((scores.softmax(-1).to(v.dtype) @ v).float(), scores.logsumexp(-1))


def together(one: Attended, other: Attended) -> Attended:
    """Attention to two parts of the keys, which share no key, from the attention to each part."""
    share = (one.sums - other.sums).sigmoid()[..., None]
    return Attended(torch.lerp(other.out, one.out, share), torch.logaddexp(one.sums, other.sums))


def with_sink(attended: Attended, sink_logits: Tensor | None) -> Attended:
    """The same beside a sink, which takes attention and has no value.

    Args:
        attended: output `(rows, heads, queries, value_dim)`, sums `(rows, heads, queries)`.
        sink_logits: `(heads,)`, the score of the sink of each head; None for no sinks.
    """
    if sink_logits is None:
        return attended
    sinks = sink_logits.to(attended.sums)[:, None]
    share = (attended.sums - sinks).sigmoid()[..., None]
    return Attended(attended.out * share, torch.logaddexp(attended.sums, sinks))

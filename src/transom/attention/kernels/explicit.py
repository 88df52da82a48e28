"""Attention by its formula under a score rule, which fused kernels do not compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from transom.attention.kernels.products import multiplied_in
from transom.attention.score_rule import ScoreRule

__all__ = ["KeyPart", "explicit", "scaled_products", "weighted_values"]

SCORES_AT_ONCE = 1 << 24  # numbers: bounds the scratch memory of a long prompt


class KeyPart(NamedTuple):
    """Some of the keys, and the queries as these keys meet them.

    Attributes:
        q: `(batch, heads, q_len, head_dim)`.
        k: `(batch, kv_heads, keys, head_dim)`; a whole number of query heads share each.
        v: `(batch, kv_heads, keys, value_dim)`.
        seen: bool, which of the keys a query sees; broadcasts to `(batch, heads, q_len, keys)`,
            with a dimension of `q_len`. None for all.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    seen: Tensor | None = None

    def rows(self, rows: slice) -> KeyPart:
        """The part as some of the queries see it."""
        seen = None if self.seen is None else self.seen[..., rows, :]
        return self._replace(q=self.q[:, :, rows], seen=seen)


def explicit(parts: Sequence[KeyPart], rule: ScoreRule) -> Tensor:
    """Attention output, `(batch, heads, q_len, value_dim)` in the dtype of the queries.

    One softmax spans all parts. Scores are in float32 at least. They are computed for so many
    queries at once that scratch memory stays bounded, also in training: the backward pass computes
    them again. Queries that see nothing give zeros. Runs on any device.

    Args:
        parts: the keys, at least one part; their queries have the same shape.
        rule: how scores become weights.
    """
    batch, heads, q_len, _ = parts[0].q.shape
    keys = sum(part.k.shape[2] for part in parts)
    count = max(1, SCORES_AT_ONCE // max(1, batch * heads * keys))
    tensors = [x for part in parts for x in part[:3]]
    tensors += [] if rule.sink_logits is None else [rule.sink_logits]
    tracked = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    outputs = []
    for start in range(0, q_len, count):
        some = [part.rows(slice(start, start + count)) for part in parts]
        if tracked and count < q_len:
            outputs.append(checkpoint(_attend, some, rule, use_reentrant=False))
        else:
            outputs.append(_attend(some, rule))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)


def _attend(parts: Sequence[KeyPart], rule: ScoreRule) -> Tensor:
    dtype = parts[0].q.dtype
    products = [scaled_products(part.q, part.k, rule.scale) for part in parts]
    scores = rule.capped(products[0] if len(parts) == 1 else torch.cat(products, dim=-1))
    seen = None
    if any(part.seen is not None for part in parts):
        seen = torch.cat([_seen(part, scores) for part in parts], dim=-1)
    weights = rule.weights(scores, seen)
    sizes = [part.k.shape[2] for part in parts]
    out = sum(
        weighted_values(some, part.v)
        for some, part in zip(weights.split(sizes, dim=-1), parts, strict=True)
    )
    assert isinstance(out, Tensor)
    return out.to(dtype)


def _seen(part: KeyPart, scores: Tensor) -> Tensor:
    """Which keys of a part are seen, expanded so that parts can be joined."""
    shape = (*scores.shape[:3], part.k.shape[2])
    if part.seen is None:
        return torch.ones(shape, dtype=torch.bool, device=scores.device)
    return part.seen.expand(shape)


def scaled_products(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Products of queries and keys, `(batch, heads, q_len, keys)`, each group with its kv head.

    In the dtype of the queries, or in float32 where the processor multiplies that faster.
    """
    batch, heads, q_len, dim = q.shape
    kv_heads = k.shape[1]
    q, k = (x.to(multiplied_in(x)) for x in (q, k))
    grouped = (q * scale).reshape(batch, kv_heads, heads // kv_heads * q_len, dim)
    return (grouped @ k.transpose(2, 3)).reshape(batch, heads, q_len, k.shape[2])


def weighted_values(weights: Tensor, v: Tensor) -> Tensor:
    """Sums of values, `(batch, heads, q_len, value_dim)`, each group with its kv head."""
    batch, heads, q_len, keys = weights.shape
    kv_heads = v.shape[1]
    v = v.to(multiplied_in(v))
    grouped = weights.to(v.dtype).reshape(batch, kv_heads, heads // kv_heads * q_len, keys)
    return (grouped @ v).reshape(batch, heads, q_len, v.shape[3])

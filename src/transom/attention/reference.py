"""The slow, obvious meaning of a policy, that every fast path is tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from transom.attention.rotary import Rotary
from transom.policies import Positional

__all__ = ["reference_attention"]


def reference_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    policy: Positional,
    rotary: Rotary | None,
    *,
    valid: Tensor | None = None,
    compact: bool = True,
    scaling: float | None = None,
) -> Tensor:
    """One dense pass under a policy, a query at a time.

    For every query: list the keys it may see, oldest first; give the n-th of them position n (or,
    if not `compact`, its own position); turn them and the query; attend.

    Args:
        q: `(batch, heads, length, head_dim)` before rotary.
        k: `(batch, kv_heads, length, head_dim)` before rotary.
        v: `(batch, kv_heads, length, value_dim)`.
        rotary: None for a model without rotary positions.
        valid: `(batch, length)` bool, False where there is padding, which is seen by no one and
            counts for no position.

    Returns:
        `(batch, heads, length, value_dim)`; zeros for padding queries.
    """
    batch, heads, length, head_dim = q.shape
    groups = heads // k.shape[1]
    scaling = head_dim**-0.5 if scaling is None else scaling
    output = torch.zeros(batch, heads, length, v.shape[-1], dtype=q.dtype)
    for row in range(batch):
        tokens = range(length) if valid is None else valid[row].nonzero().flatten().tolist()
        for position, token in enumerate(tokens):
            seen = [p for p in range(position + 1) if bool(policy.visible(position, p))]
            columns = [tokens[p] for p in seen]
            places = torch.arange(len(seen)) if compact else torch.tensor(seen)
            keys, query = k[row][:, columns], q[row][:, token, None]
            if rotary is not None:
                keys = rotary.rotate(keys, *rotary.angles(places))
                query = rotary.rotate(query, *rotary.angles(places[-1:]))
            keys = keys.repeat_interleave(groups, dim=0)
            values = v[row][:, columns].repeat_interleave(groups, dim=0)
            weights = torch.softmax(query @ keys.transpose(1, 2) * scaling, dim=-1)
            output[row, :, token] = (weights @ values)[:, 0]
    return output

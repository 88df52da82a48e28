"""What a policy by position means, slowly and obviously; every fast path is compared with it."""

from __future__ import annotations

import torch
from torch import Tensor

from transom.attention.rotary import Rotary
from transom.policies import Positional


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
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """One dense pass under a policy, query by query.

    For each query: list the keys that it may see, oldest first. Give the n-th of them position n;
    or its own position, if not `compact`. Rotate these keys and the query. Attend.

    Args:
        q: `(batch, heads, length, head_dim)`, unrotated.
        k: `(batch, kv_heads, length, head_dim)`, unrotated.
        v: `(batch, kv_heads, length, value_dim)`.
        rotary: None for a model without rotary positions.
        valid: `(batch, length)` bool, False for padding. No query sees padding, and it does not
            count as a position.
        softcap: the limit of scores; None for none.
        sinks: `(heads,)`, a score for each head that takes part in the softmax without a value.

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
            scores = query @ keys.transpose(1, 2) * scaling
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            if sinks is not None:
                scores = torch.cat((scores, sinks[:, None, None].to(scores)), dim=-1)
            weights = torch.softmax(scores, dim=-1)[..., : len(seen)]
            output[row, :, token] = (weights @ values)[:, 0]
    return output

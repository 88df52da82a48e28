"""Which blocks are looked for: what they are found by, and how queries vote for them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["elect", "representatives", "votes"]


def representatives(keys: Tensor, count: int) -> Tensor:
    """The keys that a block is found by: those least like its mean.

    What makes a block worth recalling is mostly a few tokens that do not belong with the others,
    whose keys stand out (KeyDiff, https://arxiv.org/abs/2504.15364); means over neighbours lose
    them.

    Args:
        keys: `(..., block, dim)`, at no angle.

    Returns:
        `(..., count, dim)`.
    """
    alike = F.cosine_similarity(keys.float(), keys.float().mean(-2, keepdim=True), dim=-1)
    chosen = alike.topk(count, dim=-1, largest=False).indices.sort(-1).values
    return keys.gather(-2, chosen[..., None].expand(*chosen.shape, keys.shape[-1]))


def votes(queries: Tensor, sums: Tensor, representatives: Tensor, scale: float) -> Tensor:
    """How much each block is looked for, `(rows, kv_heads, blocks)` bfloat16.

    It is the most attention that any of a block's representatives would get of any query, beside
    what the query sees. So a query that knows what it wants is not outvoted by many that do not,
    and one that finds it among the local tokens asks for nothing.

    Args:
        queries: `(rows, heads, tokens, dim)`, turned as far as blocks are away when recalled.
        sums: `(rows, heads, tokens)` float32, logs of the sums of the exponents of the scores of
            what each query sees.
        representatives: `(rows, kv_heads, blocks, count, dim)`, at no angle.
        scale: of the scores.
    """
    rows, kv_heads, blocks, count, dim = representatives.shape
    asked = queries.reshape(rows, kv_heads, -1, dim)
    scores = asked @ representatives.flatten(2, 3).transpose(2, 3)
    best = scores.unflatten(-1, (blocks, count)).amax(-1).float() * scale
    most: Tensor = (best - sums.reshape(rows, kv_heads, -1, 1)).amax(2).sigmoid()
    return most.bfloat16()


def elect(tally: Tensor, recency: Tensor, count: int) -> Tensor:
    """Indices of the `count` blocks with most votes, the most recent ones among equals.

    Equals are common: at no angle the keys of equal tokens are equal, in the first layer exactly.
    Votes are rounded, so that what is equal but for rounding is equal here too, and who is elected
    does not depend on how the text was cut into passes.

    Args:
        tally: `(..., blocks)` bfloat16, none negative.
        recency: `(blocks,)` int64, from 0; the largest is the newest.
    """
    # As whole numbers, positive floats are in the same order.
    order = tally.contiguous().view(torch.int16).long() * len(recency) + recency
    return order.topk(count, dim=-1).indices

"""Which blocks are looked for: what they are found by, and how queries vote for them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["elect", "keenest", "moments", "representatives", "votes"]


def representatives(keys: Tensor, count: int) -> Tensor:
    """The keys that a block is found by: all, or those farthest from their mean.

    The key that a query looks for may be any, and one of those that stand out more often than not
    (compare KeyDiff, https://arxiv.org/abs/2504.15364); means over neighbours, and bounds, find
    less.

    Args:
        keys: `(..., block, dim)`, at no angle.

    Returns:
        `(..., count, dim)` bfloat16.
    """
    if count < keys.shape[-2]:
        away = (keys - keys.mean(-2, keepdim=True)).square().sum(-1)
        places = torch.arange(keys.shape[-2], device=keys.device)
        chosen = elect(away.bfloat16(), places, count).sort(-1).values
        keys = keys.gather(-2, chosen[..., None].expand(*chosen.shape, keys.shape[-1]))
    return keys.bfloat16()


def moments(keys: Tensor) -> Tensor:
    """Sums of keys `(..., count, dim)` and of their squares, `(..., 2, dim)` float32."""
    keys = keys.float()
    return torch.stack((keys.sum(-2), keys.square().sum(-2)), dim=-2)


def keenest(
    queries: Tensor, sums: Tensor, moments: Tensor, keys: int, scale: float, count: int
) -> tuple[Tensor, Tensor]:
    """The queries from which most is to be expected: a third of them finds as much as all.

    The best of `n` scores that were normally distributed would be about `sqrt(2 log n)` standard
    deviations above their mean; what counts is how that compares with what the query sees.

    Args:
        queries: `(rows, kv_heads, queries, dim)`.
        sums: `(rows, kv_heads, queries)`, as `votes` takes them.
        moments: of all the keys that can be found, `(rows, kv_heads, 2, dim)`, and how many
            `keys` these are.
        scale: of the scores.
        count: of queries to choose.

    Returns:
        `count` of the queries, or all if there are fewer, and their sums.
    """
    if count >= queries.shape[2]:
        return queries, sums
    mean, square = (moments / keys).unbind(2)
    asked, spread = queries.float(), (square - mean.square()).clamp_(min=0)
    varied = (asked.square() @ spread[..., None]).sqrt_()
    best = asked @ mean[..., None] + math.sqrt(2 * math.log(keys)) * varied
    chosen = (best[..., 0] * scale - sums).topk(count, dim=2).indices
    expanded = chosen[..., None].expand(*chosen.shape, queries.shape[3])
    return queries.gather(2, expanded), sums.gather(2, chosen)


def votes(queries: Tensor, sums: Tensor, representatives: Tensor, scale: float) -> Tensor:
    """How much each block is looked for, `(rows, kv_heads, blocks)` bfloat16.

    It is the most attention that any of a block's representatives would get of any query, beside
    what the query sees. So a query that knows what it wants is not outvoted by many that do not,
    and one that finds it among the local tokens asks for nothing.

    Args:
        queries: `(rows, kv_heads, queries, dim)`, turned as far as blocks are away when recalled.
        sums: `(rows, kv_heads, queries)` float32, logs of the sums of the exponents of the scores
            of what each query sees.
        representatives: `(rows, kv_heads, count, blocks, dim)` bfloat16, at no angle.
        scale: of the scores.
    """
    count, blocks = representatives.shape[2:4]
    # Bfloat16, in which this product is up to four times as fast: a vote is rounded to it anyway.
    scores = representatives.flatten(2, 3) @ queries.to(representatives.dtype).transpose(2, 3)
    best = scores.unflatten(2, (count, blocks)).amax(2).float() * scale
    most: Tensor = (best - sums[:, :, None]).amax(3).sigmoid()
    return most.bfloat16()


def elect(tally: Tensor, recency: Tensor, count: int) -> Tensor:
    """Indices of the `count` blocks (or keys) with most votes, the most recent ones among equals.

    Equals are common: at no angle the keys of equal tokens are equal, in the first layer exactly,
    and two keys are as far from their mean. Votes are rounded, so that what is equal but for
    rounding is equal here too, and who is elected does not depend on how the text was cut into
    passes.

    Args:
        tally: `(..., blocks)` bfloat16, none negative.
        recency: `(blocks,)` int64, from 0; the largest is the newest.
    """
    # As whole numbers, positive floats are in the same order.
    order = tally.contiguous().view(torch.int16).long() * len(recency) + recency
    return order.topk(count, dim=-1).indices

"""Which blocks are looked for: what they are found by, and how queries vote for them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "AT_LEAST",
    "HOPEFUL",
    "IN_COMMON",
    "basis",
    "elect",
    "had",
    "hopes",
    "moments",
    "representatives",
    "shares",
]

AT_LEAST = 0.3  # of a query's attention that a key must get for its block to be wanted
HOPEFUL = math.log(AT_LEAST / (1 - AT_LEAST))  # the same as log odds
IN_COMMON = 0.3  # sum of the squares of the votes of layers below for a block to be wanted above
NOTHING = 1e-5  # of the largest of the sums of squares
AT_ONCE = 64  # queries whose scores are in memory together


def representatives(keys: Tensor, count: int) -> Tensor:
    """The keys that a block is found by: all, or those farthest from their mean.

    The key that a query looks for may be any, and one of those that stand out more often than not
    (compare KeyDiff, https://arxiv.org/abs/2504.15364); means over neighbours, and bounds, find
    less.

    Args:
        keys: `(..., block, dim)`, at no angle.

    Returns:
        `(..., count, dim)`.
    """
    if count == keys.shape[-2]:
        return keys
    away = (keys - keys.mean(-2, keepdim=True)).square().sum(-1)
    places = torch.arange(keys.shape[-2], device=keys.device)
    chosen = elect(away, places, count).sort(-1).values
    return keys.gather(-2, chosen[..., None].expand(*chosen.shape, keys.shape[-1]))


def moments(keys: Tensor) -> Tensor:
    """Sums of keys `(..., count, dim)` and of their products, `(..., 1 + dim, dim)` float32."""
    keys = keys.float()
    return torch.cat((keys.sum(-2, keepdim=True), keys.transpose(-1, -2) @ keys), dim=-2)


def basis(moments: Tensor, rank: int) -> Tensor:
    """The directions in which the keys with these moments are largest, `(..., dim, rank)`.

    Zeros instead of directions in which there is nothing: any other would do as well. Dimensions
    that hold infinities or no numbers count as nothing.
    """
    products = torch.nan_to_num(moments[..., 1:, :], 0, 0, 0)
    sizes, directions = torch.linalg.eigh(products)
    there = sizes > NOTHING * sizes[..., -1:]
    found: Tensor = (directions * there[..., None, :])[..., -rank:]
    return found


def hopes(queries: Tensor, sums: Tensor, moments: Tensor, keys: int, scale: float) -> Tensor:
    """What the best of all cold keys is expected to get of each query, as log odds.

    The best of `n` scores that were normally distributed would be about `sqrt(2 log n)` standard
    deviations above their mean; what counts is how that compares with what the query sees.

    Args:
        queries: `(rows, kv_heads, queries, dim)`, turned as far as blocks are away when recalled.
        sums: `(rows, kv_heads, queries)` float32, logs of the sums of the exponents of the scores
            of what each query sees.
        moments: of all the keys that can be found, `(rows, kv_heads, 1 + dim, dim)`, and how many
            `keys` these are.
        scale: of the scores.

    Returns:
        `(rows, kv_heads, queries)` float32.
    """
    asked, (mean, square) = queries.float(), (moments / keys).split((1, len(moments[0, 0]) - 1), 2)
    means = (asked @ mean.transpose(2, 3))[..., 0]
    squares = (asked @ square).mul_(asked).sum(3)
    spread = (squares - means.square()).clamp_(min=0).sqrt_()
    hoped: Tensor = means.add_(spread, alpha=math.sqrt(2 * math.log(keys))).mul_(scale).sub_(sums)
    return hoped


def shares(queries: Tensor, sums: Tensor, found_by: Tensor, scale: float) -> Tensor:
    """How much attention the best key of each block would get of each query, `(queries, blocks)`.

    Args:
        queries: `(queries, rank)`, of one kv head of one row.
        sums: `(queries,)` float32, as in `hopes`.
        found_by: `(count, rank, blocks)`: so products and maxima run along memory, twice as fast
            as with each block's own in one place.
        scale: of the scores.
    """
    best = torch.cat([(some @ found_by).amax(0) for some in queries.split(AT_ONCE)])
    return best.mul_(scale).sub_(sums[:, None]).sigmoid_()


def had(queries: Tensor, sums: Tensor, found_by: Tensor, scale: float) -> Tensor:
    """How much attention the best key of a block that all queries saw got of any of them.

    Its scores are in `sums` already: among `shares` it would be compared with itself.

    Args:
        queries: `(rows, kv_heads, queries, rank)`.
        sums: `(rows, kv_heads, queries)` float32, as in `hopes`.
        found_by: `(rows, kv_heads, count, rank)`.
        scale: of the scores.

    Returns:
        `(rows, kv_heads)` float32. No more than 1: queries are turned as far as recalled blocks
        are away, so the scores are not quite those of the sums.
    """
    best = (queries @ found_by.mT).amax(3) * scale
    return best.sub_(sums).exp_().amax(2).clamp_(max=1)


def elect(tally: Tensor, recency: Tensor, count: int) -> Tensor:
    """Indices of the `count` blocks (or keys) with most votes, the most recent ones among equals.

    Equals are common: at no angle the keys of equal tokens are equal, in the first layer exactly,
    and two keys are as far from their mean. Votes are rounded to bfloat16, so that what is equal
    but for rounding is equal here too, and who is elected does not depend on how the text was cut
    into passes.

    Args:
        tally: `(..., blocks)`, none negative.
        recency: `(blocks,)` int64, from 0; the largest is the newest.
    """
    # As whole numbers, positive floats are in the same order.
    order = tally.bfloat16().contiguous().view(torch.int16).long() * len(recency) + recency
    return order.topk(count, dim=-1).indices

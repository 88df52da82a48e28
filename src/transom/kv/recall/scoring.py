"""How queries vote for cold blocks, and by which keys a block is found."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from transom.attention.score_rule import ScoreRule

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

AT_LEAST = 0.3  # the share of a query's attention that a key must get: then its block is wanted
HOPEFUL = math.log(AT_LEAST / (1 - AT_LEAST))  # the same share as log odds
IN_COMMON = 0.3  # the sum of squared votes in layers below that makes a block wanted above
NOTHING = 1e-5  # of the largest eigenvalue; a smaller one counts as zero
AT_ONCE = 64  # queries whose scores are in memory at the same time


def representatives(keys: Tensor, count: int) -> Tensor:
    """The keys that a block is found by: all of them, or those farthest from their mean.

    A query may look for any key, but most often it looks for one that stands out (compare KeyDiff,
    https://arxiv.org/abs/2504.15364). Means over neighbours, and upper bounds, find fewer.

    Args:
        keys: `(..., block, dim)`, unrotated (pre-RoPE).
        count: how many keys to choose.

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
    """The sum of keys `(..., count, dim)`, then the sums of their products; float32.

    Returns:
        `(..., 1 + dim, dim)`.
    """
    keys = keys.float()
    return torch.cat((keys.sum(-2, keepdim=True), keys.transpose(-1, -2) @ keys), dim=-2)


def basis(moments: Tensor, rank: int) -> Tensor:
    """The `rank` directions in which the keys with these moments are largest, `(..., dim, rank)`.

    A direction in which the keys are zero is replaced by zeros, because it is arbitrary. Dimensions
    that hold infinities or NaN count as zero.
    """
    products = torch.nan_to_num(moments[..., 1:, :], 0, 0, 0)
    sizes, directions = torch.linalg.eigh(products)
    there = sizes > NOTHING * sizes[..., -1:]
    found: Tensor = (directions * there[..., None, :])[..., -rank:]
    return found


def hopes(queries: Tensor, sums: Tensor, moments: Tensor, keys: int, rule: ScoreRule) -> Tensor:
    """The attention that the best cold key can be expected to get from each query, as log odds.

    The best of `n` normally distributed scores is about `sqrt(2 log n)` standard deviations above
    their mean. It competes with the scores of what the query sees.

    Args:
        queries: `(rows, kv_heads, queries, dim)`, rotated by the mean distance of recalled blocks.
        sums: `(rows, kv_heads, queries)` float32, for each query the log of the sum of the
            exponentials of its scores with what it sees.
        moments: of all keys that can be found, `(rows, kv_heads, 1 + dim, dim)`.
        keys: how many keys these are.
        rule: how products become scores.

    Returns:
        `(rows, kv_heads, queries)` float32.
    """
    asked, (mean, square) = queries.float(), (moments / keys).split((1, len(moments[0, 0]) - 1), 2)
    means = (asked @ mean.transpose(2, 3))[..., 0]
    squares = (asked @ square).mul_(asked).sum(3)
    spread = (squares - means.square()).clamp_(min=0).sqrt_()
    best = means.add_(spread, alpha=math.sqrt(2 * math.log(keys))).mul_(rule.scale)
    return rule.capped(best).sub_(sums)


def shares(queries: Tensor, sums: Tensor, found_by: Tensor, rule: ScoreRule) -> Tensor:
    """The attention that the best key of each block would get from each query.

    Args:
        queries: `(queries, rank)`, of one kv head of one row.
        sums: `(queries,)` float32, as in `hopes`.
        found_by: `(count, rank, blocks)`. In this order products and maxima run along memory, and
            are twice as fast as with the blocks first.
        rule: how products become scores.

    Returns:
        `(queries, blocks)`, shares from 0 to 1.
    """
    best = torch.cat([(some @ found_by).amax(0) for some in queries.split(AT_ONCE)])
    return rule.capped(best.mul_(rule.scale)).sub_(sums[:, None]).sigmoid_()


def had(queries: Tensor, sums: Tensor, found_by: Tensor, rule: ScoreRule) -> Tensor:
    """The largest share of attention that the best key of a block got from queries that saw it.

    The `sums` contain its scores already, so `shares` would compare it with itself.

    Args:
        queries: `(rows, kv_heads, queries, rank)`.
        sums: `(rows, kv_heads, queries)` float32, as in `hopes`.
        found_by: `(rows, kv_heads, count, rank)`.
        rule: how products become scores.

    Returns:
        `(rows, kv_heads)` float32, limited to 1: queries are rotated by the mean distance of
        recalled blocks, so their scores are not quite those in the sums.
    """
    best = (queries @ found_by.mT).amax(3) * rule.scale
    return rule.capped(best).sub_(sums).exp_().amax(2).clamp_(max=1)


def elect(tally: Tensor, recency: Tensor, count: int) -> Tensor:
    """Indices of the `count` blocks (or keys) with most votes; among equals the most recent win.

    Equals are common: unrotated (pre-RoPE) keys of equal tokens are equal, in the first layer
    exactly, and two keys are equally far from their mean. Votes are rounded to bfloat16, so that
    votes which differ only by rounding errors are equal here too. So the result does not depend on
    how the text was cut into passes.

    Args:
        tally: `(..., blocks)`, none negative.
        recency: `(blocks,)` int64, from 0; the largest is the newest.
        count: how many to elect.
    """
    # The bits of positive floats, read as whole numbers, are in the same order.
    order = tally.bfloat16().contiguous().view(torch.int16).long() * len(recency) + recency
    return order.topk(count, dim=-1).indices

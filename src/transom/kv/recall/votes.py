"""Which blocks are looked for: what they are found by, and how queries vote for them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Poll",
    "best_scores",
    "elect",
    "keenest",
    "moments",
    "representatives",
    "votes",
]


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


class Poll(NamedTuple):
    """What some queries would find among the cold keys.

    Attributes:
        chosen: `(rows, kv_heads, queries)` int64, which of a chunk's queries these are.
        scores: `(rows, kv_heads, blocks, queries)` float32, of each block's best key.
    """

    chosen: Tensor
    scores: Tensor


def keenest(
    queries: Tensor, sums: Tensor, moments: Tensor, keys: int, scale: float, count: int
) -> Tensor:
    """The queries of each chunk from which most is to be expected: a third find as much as all.

    The best of `n` scores that were normally distributed would be about `sqrt(2 log n)` standard
    deviations above their mean; what counts is how that compares with what the query sees.

    Args:
        queries: `(rows, kv_heads, chunks, queries, dim)`, turned as far as blocks are away when
            recalled.
        sums: `(rows, kv_heads, chunks, queries)` float32, logs of the sums of the exponents of
            the scores of the local keys.
        moments: of all the keys that can be found, `(rows, kv_heads, 2, dim)`, and how many
            `keys` these are.
        scale: of the scores.
        count: of queries to choose.

    Returns:
        `(rows, kv_heads, chunks, count or fewer)` int64.
    """
    mean, square = (moments[:, :, None] / keys).unbind(3)
    asked, spread = queries.float(), (square - mean.square()).clamp_(min=0)
    varied = (asked.square() @ spread[..., None]).sqrt_()
    best = asked @ mean[..., None] + math.sqrt(2 * math.log(keys)) * varied
    hopes = best[..., 0] * scale - sums
    return hopes.topk(min(count, hopes.shape[3]), dim=3).indices


def best_scores(queries: Tensor, representatives: Tensor, scale: float) -> Tensor:
    """How well the best key of each block fits, `(rows, kv_heads, blocks, queries)` float32.

    Args:
        queries: `(rows, kv_heads, queries, dim)`.
        representatives: `(rows, kv_heads, count, blocks, dim)` bfloat16, at no angle.
        scale: of the scores.
    """
    # Bfloat16, in which this product is up to four times as fast: a vote is rounded to it anyway.
    scores = representatives.flatten(2, 3) @ queries.to(representatives.dtype).transpose(2, 3)
    best: Tensor = scores.unflatten(2, representatives.shape[2:4]).amax(2)
    return best.float() * scale


def votes(scores: Tensor, sums: Tensor) -> Tensor:
    """How much each block is looked for, `(rows, kv_heads, blocks)` bfloat16.

    It is the most attention that any of a block's keys would get of any query, beside what the
    query sees. So a query that knows what it wants is not outvoted by many that do not, and one
    that finds it among the local tokens asks for nothing.

    Args:
        scores: `(rows, kv_heads, blocks, queries)`, from `best_scores`.
        sums: `(rows, kv_heads, queries)` float32, logs of the sums of the exponents of the scores
            of all that each query sees.
    """
    most: Tensor = (scores - sums[:, :, None]).amax(3).sigmoid()
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

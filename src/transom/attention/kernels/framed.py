"""Attention to blocks of keys, each of which has a place of its own."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["framed"]


def framed(
    q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention of queries that are turned for each block, rather than the keys in it.

    Turning a query for 30 blocks is less work than turning 2,000 keys, and what is stored stays as
    it is wherever the block goes.

    Args:
        q: `(rows, kv_heads, frames, queries, head_dim)`, as each block should see them; or one
            frame for all. The queries of a group's heads are one after the other.
        k: `(rows, kv_heads, frames, block, head_dim)`.
        v: `(rows, kv_heads, frames, block, value_dim)`.
        hidden: `(queries, block)` bool, what is not seen of the last frame.

    Returns:
        The output, `(rows, kv_heads, queries, value_dim)` in the dtype of `v`; and the log of the
        sum of the exponents of each query's scores, `(rows, kv_heads, queries)` float32, by which
        to tell how much attention any other key would get beside these.
    """
    scores = (q * scale).to(k.dtype) @ k.transpose(-1, -2)
    if hidden is not None:
        scores[:, :, -1].masked_fill_(hidden, -torch.inf)
    scores = scores.float()
    top = scores.amax((2, 4), keepdim=True)
    weights = (scores - top).exp_()
    sums = weights.sum((2, 4))
    out = ((weights.to(v.dtype) @ v).sum(2) / sums[..., None]).to(v.dtype)
    return out, sums.log() + top[:, :, 0, :, 0]

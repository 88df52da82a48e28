"""Mean and covariance of the queries seen so far, and an estimate of the queries to come."""

from __future__ import annotations

import torch
from torch import Tensor

from transom.attention.rotary import Rotary
from transom.policies import FutureQueries

__all__ = ["add_queries", "allocate_sums", "future_queries"]

Tensors = dict[str, Tensor]


def allocate_sums(batch: int, heads: int, dim: int, device: torch.device) -> Tensors:
    """Empty sums for each query head: `(batch, heads, dim)` and `(..., dim, dim)`, float32."""
    outer = torch.zeros(batch, heads, dim, dim, dtype=torch.float32, device=device)
    return {"queries.sum": outer.new_zeros(batch, heads, dim), "queries.outer": outer}


def add_queries(tensors: Tensors, rows: slice, q: Tensor) -> None:
    """Add unrotated (pre-RoPE) queries `(rows, heads, tokens, head_dim)`, float32, to the sums."""
    tensors["queries.sum"][rows].add_(q.sum(2))
    tensors["queries.outer"][rows].add_(q.transpose(2, 3) @ q)


def future_queries(
    tensors: Tensors, kv_heads: int, count: int, rotary: Rotary | None, rotation: Tensor | None
) -> FutureQueries:
    """The queries to come, taken to be like the `count` queries so far.

    Args:
        tensors: the sums.
        kv_heads: into which query heads are grouped.
        count: of queries in the sums.
        rotary: how the layer rotates queries; None if it does not.
        rotation: `(rotary_dim / 2,)` complex, the mean rotation of the queries to come.
    """
    mean = tensors["queries.sum"] / max(1, count)
    outer = tensors["queries.outer"] / max(1, count)
    covariance = outer - mean[..., :, None] * mean[..., None, :]
    if rotary is not None and rotation is not None:
        rotation = rotation.to(mean.device)
        mean = rotary.rotate_paired(mean, rotation)
        identity = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
        matrix = rotary.rotate_paired(identity, rotation)
        covariance = matrix.T @ covariance @ matrix
    groups = mean.shape[1] // kv_heads
    return FutureQueries(
        mean.unflatten(1, (kv_heads, groups)), covariance.unflatten(1, (kv_heads, groups))
    )

"""What queries are like: their mean and covariance, and those of the queries to come."""

from __future__ import annotations

import torch
from torch import Tensor

from transom.attention.rotary import Rotary
from transom.policies import Coming

__all__ = ["add", "allocate", "coming"]

Tensors = dict[str, Tensor]


def allocate(batch: int, heads: int, dim: int, device: torch.device) -> Tensors:
    """Sums over no queries yet, for each query head; float32."""
    outer = torch.zeros(batch, heads, dim, dim, dtype=torch.float32, device=device)
    return {"queries.sum": outer.new_zeros(batch, heads, dim), "queries.outer": outer}


def add(tensors: Tensors, rows: slice, q: Tensor) -> None:
    """Add queries `(rows, heads, tokens, head_dim)`, float32, at no angle."""
    tensors["queries.sum"][rows].add_(q.sum(2))
    tensors["queries.outer"][rows].add_(q.transpose(2, 3) @ q)


def coming(
    tensors: Tensors, kv_heads: int, count: int, rotary: Rotary | None, rotation: Tensor | None
) -> Coming:
    """The queries to come if they are like the `count` so far, turned by `rotation` on average."""
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
    return Coming(
        mean.unflatten(1, (kv_heads, groups)), covariance.unflatten(1, (kv_heads, groups))
    )

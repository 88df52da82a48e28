"""Random queries, keys and values for attention kernels."""

from __future__ import annotations

import torch
from torch import Tensor

HEADS, KV_HEADS, DIM, VALUE_DIM = 6, 2, 16, 8


def tensors(
    batch: int, q_len: int, kv_len: int, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(q_len * 1000 + kv_len)
    shapes = (HEADS, q_len, DIM), (KV_HEADS, kv_len, DIM), (KV_HEADS, kv_len, VALUE_DIM)
    return [torch.randn(batch, *shape, generator=generator).to(dtype) for shape in shapes]

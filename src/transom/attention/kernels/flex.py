"""PyTorch's FlexAttention, compiled, with the blocks of a pattern's layout."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from transom.attention.modes import lasting
from transom.attention.patterns import Pattern

__all__ = ["flex"]


def flex(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float) -> Tensor:
    """Attention output, `(batch, heads, q_len, value_dim)`; compiled at the first use of a shape.

    Args:
        q: `(batch, heads, q_len, head_dim)`.
        k: `(batch, kv_heads, kv_len, head_dim)`.
        v: `(batch, kv_heads, kv_len, value_dim)`.
        scale: of the scores.
    """
    mask = _block_mask(pattern, q.shape[0], q.shape[1], q.shape[2], k.shape[2], q.device)
    grouped = q.shape[1] != k.shape[1]
    out: Tensor = _compiled()(q, k, v, block_mask=mask, scale=scale, enable_gqa=grouped)
    return out


@lru_cache(maxsize=1)
def _compiled() -> Any:
    # Sizes as variables do not compile on CPUs in torch 2.13.
    return torch.compile(flex_attention, dynamic=False)


@lru_cache(maxsize=16)
@lasting
def _block_mask(
    pattern: Pattern, batch: int, heads: int, q_len: int, kv_len: int, device: torch.device
) -> BlockMask:
    """What is visible in blocks of 128; seconds at 16,384 tokens, hence kept."""
    offset = kv_len - q_len

    def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return pattern(b, h, q + offset, k)

    return create_block_mask(
        visible,
        batch if pattern.batch else None,
        heads if pattern.heads else None,
        q_len,
        kv_len,
        device=device,
    )

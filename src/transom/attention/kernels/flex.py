"""PyTorch's FlexAttention, compiled, with the block mask of a pattern."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from transom.attention.modes import lasting
from transom.attention.patterns import Pattern

__all__ = ["flex"]


def flex(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float) -> Tensor:
    """Attention output, `(batch, heads, q_len, value_dim)`; each new shape is compiled first.

    Args:
        q: `(batch, heads, q_len, head_dim)`.
        k: `(batch, kv_heads, kv_len, head_dim)`.
        v: `(batch, kv_heads, kv_len, value_dim)`.
        scale: of the scores.
    """
    mask = _block_mask(pattern, q.shape[0], q.shape[1], q.shape[2], k.shape[2], q.device)
    grouped = q.shape[1] != k.shape[1]
    return _compiled()(q, k, v, block_mask=mask, scale=scale, enable_gqa=grouped)


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Tensor]:
    # With dynamic sizes it does not compile on CPUs in torch 2.13.
    compiled: Callable[..., Tensor] = torch.compile(flex_attention, dynamic=False)
    return compiled


@lru_cache(maxsize=16)
@lasting
def _block_mask(
    pattern: Pattern, batch: int, heads: int, q_len: int, kv_len: int, device: torch.device
) -> BlockMask:
    """The pattern in blocks of 128; kept, because at 16,384 tokens it takes seconds to make."""
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

"""Refuses a backward pass where there is no gradient, instead of giving a wrong one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from transom.errors import CacheError

__all__ = ["in_backward", "without_gradient"]


def without_gradient(x: Tensor, *sources: Tensor, why: str) -> Tensor:
    """`x`, which was computed from `sources` without a gradient; a backward pass raises.

    Args:
        x: the result, detached or not.
        sources: what it was computed from.
        why: what has no gradient and what to do: the text of the `CacheError`.
    """
    if torch.is_grad_enabled() and any(source.requires_grad for source in sources):
        refused: Tensor = _Refused.apply(x.detach(), why, *sources)  # type: ignore[no-untyped-call]
        return refused
    return x


class _Refused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, why: str, *sources: Tensor) -> Tensor:
        ctx.why = why
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise CacheError(ctx.why)


def in_backward() -> bool:
    """Whether a backward pass is running; with checkpointing it repeats forward passes."""
    return bool(torch._C._current_graph_task_id() != -1)

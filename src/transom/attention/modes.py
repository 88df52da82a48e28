"""PyTorch's modes, inference mode and autocast, and how to be right whichever is on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

__all__ = ["as_autocast", "lasting", "like_fused", "without_autocast"]

P = ParamSpec("P")
T = TypeVar("T")
MethodT = TypeVar("MethodT", bound=Callable[..., Any])


def lasting(function: Callable[P, T]) -> Callable[P, T]:
    """For a function whose tensors outlive the call: they can be used in every mode.

    A tensor made in inference mode can be neither written to nor saved for a gradient outside it.
    Compiled code cannot ask for the mode, so it runs outside, or makes nothing that lasts.
    """

    @wraps(function)
    def outside(*args: P.args, **kwargs: P.kwargs) -> T:
        if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return outside


def like_fused(method: MethodT) -> MethodT:
    """For a method of queries, keys and values: under autocast they come as `as_autocast` says."""

    @wraps(method)
    def attend(self: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Any:
        q, k, v = as_autocast(q, k, v)
        with without_autocast(q.device):
            return method(self, q, k, v, *args, **kwargs)

    return cast("MethodT", attend)


def as_autocast(*states: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values in the dtype in which PyTorch's fused attention takes them.

    Under autocast projections come in half precision, and what was turned in float32.
    """
    device = states[0].device.type
    if not torch.is_autocast_enabled(device):
        return states
    dtype = torch.get_autocast_dtype(device)
    return tuple(x if x.dtype == torch.float64 else x.to(dtype) for x in states)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """While open, dtypes are what the code says."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()

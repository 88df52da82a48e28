"""PyTorch's inference mode and autocast: how to compute the same whichever is on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import ParamSpec, TypeVar, cast

import torch
from torch import Tensor

__all__ = ["as_autocast", "lasting", "like_fused", "without_autocast"]

P = ParamSpec("P")
T = TypeVar("T")
MethodT = TypeVar("MethodT", bound=Callable[..., object])


def lasting(function: Callable[P, T]) -> Callable[P, T]:
    """Make a function's tensors outside inference mode, so that they can be used in every mode.

    A tensor made in inference mode can neither be written to nor saved for a gradient outside it.
    Compiled code cannot ask for the mode. So it must run outside inference mode, or make no tensor
    that outlives the call.
    """

    @wraps(function)
    def outside(*args: P.args, **kwargs: P.kwargs) -> T:
        if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return outside


def like_fused(method: MethodT) -> MethodT:
    """Give a method its queries, keys and values as `as_autocast` casts them, autocast being off.

    For methods that compute attention. So under autocast they act as PyTorch's fused attention.
    """

    @wraps(method)
    def attend(
        self: object, q: Tensor, k: Tensor, v: Tensor, *args: object, **kwargs: object
    ) -> object:
        q, k, v = as_autocast(q, k, v)
        with without_autocast(q.device):
            return method(self, q, k, v, *args, **kwargs)

    return cast("MethodT", attend)


def as_autocast(*states: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values in the dtype to which autocast casts them for fused attention.

    Under autocast, values come from a projection in half precision, but rotated queries and keys
    come in float32. Without autocast, and in float64, tensors stay as they are.
    """
    device = states[0].device.type
    if not torch.is_autocast_enabled(device):
        return states
    dtype = torch.get_autocast_dtype(device)
    return tuple(x if x.dtype == torch.float64 else x.to(dtype) for x in states)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """While open, autocast changes no dtype on this kind of device."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()

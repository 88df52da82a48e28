"""Where `torch.compile` leaves its graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

__all__ = ["uncompiled"]

P = ParamSpec("P")
T = TypeVar("T")

WHY = {
    "reason": "transom plans each pass anew, outside of graphs: compile without fullgraph=True, or "
    "use Context(..., compile=True) for single steps"
}


def uncompiled(function: Callable[P, T]) -> Callable[P, T]:
    """Run a function as it is where a compiled model calls it; what is around it is compiled.

    With `fullgraph=True` PyTorch refuses that, and names the function and the reason.
    """
    takes = inspect.signature(torch.compiler.disable).parameters
    given = WHY if "reason" in takes else {}  # since torch 2.7
    wrapped: Callable[P, T] = torch.compiler.disable(function, **given)
    return wrapped

"""Functions that `torch.compile` calls as they are."""

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
    """Keep `torch.compile` from compiling a function; a compiled model calls it as it is.

    Under `fullgraph=True` PyTorch refuses such a call, and names the function and the reason.
    """
    takes = inspect.signature(torch.compiler.disable).parameters
    given = WHY if "reason" in takes else {}  # since torch 2.7
    wrapped: Callable[P, T] = torch.compiler.disable(function, **given)
    return wrapped

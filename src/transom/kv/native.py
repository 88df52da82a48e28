"""The state of layers that a model keeps itself, as tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from transom.errors import UnsupportedModelError

__all__ = ["change_native", "copy_native", "restore_native", "tensors_of"]


def tensors_of(layer: Any) -> dict[str, Tensor]:
    """What a layer holds: its tensors, and its counts and flags as tensors of one number.

    Raises:
        UnsupportedModelError: when it holds anything else, which might be lost.
    """
    held: dict[str, Tensor] = {}
    for name, value in vars(layer).items():
        items = value.items() if isinstance(value, dict) else [(None, value)]
        for key, item in items:
            full = name if key is None else f"{name}.{key}"
            if isinstance(item, Tensor):
                held[full] = item
            elif isinstance(item, (bool, int)):
                held[full] = torch.tensor(item, device="cpu")
            elif item is not None and not isinstance(item, (torch.dtype, torch.device)):
                raise UnsupportedModelError(
                    f"{type(layer).__name__} holds {full} of type {type(item).__name__}, which "
                    "cannot be saved yet."
                )
    return held


def restore_native(layer: Any, held: dict[str, Tensor], device: torch.device) -> None:
    """Give a new layer of the same kind what `tensors_of` found in another."""
    for full, tensor in held.items():
        name, _, key = full.partition(".")
        before = getattr(layer, name, None)
        plain = tensor.ndim == 0 and not isinstance(before, Tensor)
        value: Any = tensor.item() if plain else tensor.to(device, copy=True)
        if isinstance(before, dict):
            before[int(key)] = value
        else:
            setattr(layer, name, value)
        if isinstance(value, Tensor) and value.is_floating_point():
            layer.dtype, layer.device = value.dtype, device


def change_native(layer: Any, change: Callable[[Tensor], Tensor]) -> None:
    """Put what `change` makes of each tensor that a layer holds in its place."""
    for name, value in vars(layer).items():
        if isinstance(value, Tensor):
            setattr(layer, name, change(value))
        elif isinstance(value, dict):
            made = {key: change(x) if isinstance(x, Tensor) else x for key, x in value.items()}
            setattr(layer, name, made)


def copy_native(layer: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Another layer with what `change` makes of each tensor."""
    twin = copy.copy(layer)
    change_native(twin, change)
    return twin

"""Layers that stay as the model has them: their state as tensors, copies and cropping."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers.cache_utils import (
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
)

from transom.errors import UnsupportedModelError

__all__ = [
    "NativeLayer",
    "can_crop_native",
    "change_native",
    "copy_native",
    "crop_native",
    "restore_native",
    "tensors_of",
]

# A layer of a kind that transformers or the model's own module defines. They have no base in common
# that declares all that is called here: `crop`, `batch_select_indices` and so on.
NativeLayer: TypeAlias = Any


def can_crop_native(layer: NativeLayer, tokens: int) -> bool:
    """Whether a layer still has what it needs to be as it was `tokens` tokens ago."""
    kept = True
    if isinstance(layer, LinearAttentionCacheLayerMixin):
        # A recurrence cannot forget a token; a convolution may have recorded its inputs.
        sizes: Any = layer.conv_kernel_size
        states = layer.conv_states.items()
        recorded = (x.shape[-1] >= sizes[index] + tokens for index, x in states if x is not None)
        kept = layer.record_past and bool(layer.is_croppable) and all(recorded)
    if isinstance(layer, DynamicSlidingWindowLayer):
        seen, window = layer.cumulative_length, layer.sliding_window
        if seen >= window:
            keys: Any = layer.keys
            held = keys.shape[-2] - tokens
            kept = kept and layer.record_past and held >= min(window - 1, seen - tokens)
    elif not isinstance(layer, LinearAttentionCacheLayerMixin):
        kept = bool(layer.is_croppable)
    return kept


def crop_native(layer: NativeLayer, tokens_to_remove: int) -> None:
    """Remove the newest tokens (a negative number), as `can_crop_native` allows.

    For 0, forget what was recorded in order to crop.
    """
    if tokens_to_remove or (getattr(layer, "record_past", False) and _holds_something(layer)):
        layer.crop(tokens_to_remove)


def _holds_something(layer: NativeLayer) -> bool:
    """Whether the layer holds a token, so that its `crop` can be called.

    Recurrences without a convolution never record, so they do not matter here.
    """
    states = getattr(layer, "conv_states", {})
    attends = isinstance(layer, DynamicSlidingWindowLayer)
    return all(x is not None for x in states.values()) and (not attends or layer.is_initialized)


def tensors_of(layer: NativeLayer) -> dict[str, Tensor]:
    """All that a layer holds: its tensors, and its counts and flags as tensors of one number.

    Raises:
        UnsupportedModelError: when it holds anything else, which would be lost.
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


def restore_native(layer: NativeLayer, held: dict[str, Tensor], device: torch.device) -> None:
    """Put what `tensors_of` found in a layer into a new one of the same kind."""
    for full, tensor in held.items():
        name, _, key = full.partition(".")
        before = getattr(layer, name, None)
        plain = tensor.ndim == 0 and not isinstance(before, Tensor)
        value = tensor.item() if plain else tensor.to(device, copy=True)
        if isinstance(before, dict):
            before[int(key)] = value
        else:
            setattr(layer, name, value)
        if isinstance(value, Tensor) and value.is_floating_point():
            layer.dtype, layer.device = value.dtype, device


def change_native(layer: NativeLayer, change: Callable[[Tensor], Tensor]) -> None:
    """Replace each tensor that a layer holds by what `change` makes of it."""
    for name, value in vars(layer).items():
        if isinstance(value, Tensor):
            setattr(layer, name, change(value))
        elif isinstance(value, dict):
            made = {key: change(x) if isinstance(x, Tensor) else x for key, x in value.items()}
            setattr(layer, name, made)


def copy_native(layer: NativeLayer, change: Callable[[Tensor], Tensor]) -> NativeLayer:
    """A copy of a layer, with each tensor replaced by what `change` makes of it."""
    twin = copy.copy(layer)
    change_native(twin, change)
    return twin

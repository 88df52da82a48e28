"""A model whose full-attention layers go through a batch row by row and token by token."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from transom.attention.rotary import Rotary


class Stepper(Protocol):
    """One layer of one row."""

    def step(self, position: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """One token: `q` `(heads, dim)`, `k` and `v` `(kv_heads, dim)`, before rotary."""


def full_layers(config: Any) -> list[int]:
    """Indices of the layers with full attention."""
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return [index for index, kind in enumerate(kinds) if kind == "full_attention"]


@contextmanager
def token_by_token(model: Any, make: Callable[[int, Rotary | None, float], Stepper]) -> Any:
    """While open, `make(number among full layers, rotary, scale)` says what layers do.

    Gives out a list that will hold, for each row of the batch, the layers in order.
    """
    config = model.config
    rotary = Rotary.from_config(config)
    flags = getattr(config, "no_rope_layers", None) or [1] * config.num_hidden_layers
    kinds = getattr(config, "layer_types", None) or []
    full = full_layers(config)
    sdpa = AttentionInterface()["sdpa"]
    layers: list[list[Stepper]] = []

    def mask(*, attention_mask: Tensor | None = None, local_size: int | None = None, **kw: Any):
        if local_size is not None and "sliding_attention" in kinds:
            make = AttentionMaskInterface()["sdpa"]
            return make(attention_mask=attention_mask, local_size=local_size, **kw)
        return attention_mask

    def attention(module, q, k, v, mask, scaling=None, **kw):
        if module.layer_idx not in full:
            return sdpa(module, q, k, v, mask, scaling=scaling, **kw)
        turning = rotary if flags[module.layer_idx] else None
        out = torch.zeros(*q.shape[:3], v.shape[3])
        for row in range(len(q)):
            if len(layers) <= row:
                layers.append([])
            layer = make(full.index(module.layer_idx), turning, scaling)
            layers[row].append(layer)
            columns = range(q.shape[2]) if mask is None else mask[row].nonzero().flatten().tolist()
            for position, column in enumerate(columns):
                back = (
                    (lambda x, p=position: x)
                    if turning is None
                    else (lambda x, p=position: turning.turn(x, *turning.angles(torch.tensor(-p))))
                )
                out[row, :, column] = layer.step(
                    position, back(q[row, :, column]), back(k[row, :, column]), v[row, :, column]
                )
        return out.transpose(1, 2).contiguous(), None

    before = config._attn_implementation
    AttentionInterface.register("reference", attention)
    AttentionMaskInterface.register("reference", mask)
    config._attn_implementation = "reference"
    try:
        yield layers
    finally:
        config._attn_implementation = before
        AttentionInterface._global_mapping.pop("reference")
        AttentionMaskInterface._global_mapping.pop("reference")

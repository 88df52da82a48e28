"""Policies inside transformers models, through its public attention and mask registries."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from transom.attention.visibility import Visibility
from transom.errors import CacheError, UnsupportedModelError

__all__ = ["PlannedOffset", "Planner", "select_attention"]

PREFIX = "transom|"
BASES = ("sdpa", "eager")


class Planner(Protocol):
    """Whoever decides, at the start of a forward pass, what it will see: a bounded cache."""

    def begin(
        self, tokens: int, batch: int, attention_mask: Tensor | None, device: torch.device
    ) -> Tensor | Visibility | None: ...


class PlannedOffset(int):
    """A key offset that also knows the planner it came from.

    transformers asks a cache for `(kv_length, kv_offset)` and hands both to the mask function,
    which never sees the cache. The offset carries it there.
    """

    planner: Planner

    @classmethod
    def of(cls, offset: int, planner: Planner) -> PlannedOffset:
        planned = cls(offset)
        planned.planner = planner
        return planned


def select_attention(config: Any) -> None:
    """Make the model of `config` use transom's attention where a bounded cache asks for it.

    This is what `model.set_attn_implementation` does: `config._attn_implementation` becomes
    `"transom|sdpa"` (after what it was). Without a bounded cache, and for every single-token step,
    the former implementation runs unchanged. Undo with `model.set_attn_implementation("sdpa")`.

    Raises:
        UnsupportedModelError: when the model runs an attention that takes no mask per key.
    """
    base = config._attn_implementation
    if base is None or base.startswith(PREFIX):
        return
    if base not in BASES:
        raise UnsupportedModelError(
            f"the model runs {base!r} attention; a bounded cache needs one of {', '.join(BASES)}: "
            "call model.set_attn_implementation('sdpa') first."
        )
    name = PREFIX + base
    AttentionInterface.register(name, partial(_attention, base=base))
    AttentionMaskInterface.register(name, partial(_mask, base=base))
    config._attn_implementation = name


def _mask(*, base: str, kv_offset: Any, **kwargs: Any) -> Any:
    if not isinstance(kv_offset, PlannedOffset):
        return _registered(AttentionMaskInterface, base)(kv_offset=kv_offset, **kwargs)
    if kwargs.get("use_vmap"):
        raise CacheError(
            "the model asks for its own mask pattern (bidirectional image tokens, say) over the "
            "layers that a policy bounds; only causal text is supported there."
        )
    return kv_offset.planner.begin(
        kwargs["q_length"], kwargs["batch_size"], kwargs["attention_mask"], kwargs["device"]
    )


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | Visibility | None,
    *,
    base: str,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    if not isinstance(attention_mask, Visibility):
        if base == "eager" and attention_mask is not None:
            attention_mask = _additive(attention_mask, query.dtype)
        forward = _base_attention(base, module)
        result: tuple[Tensor, Tensor | None] = forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
        return result
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise UnsupportedModelError(
                f"{type(module).__name__} attends with {name!r}, which is not supported under a "
                "bounded policy. Use the policy 'full' with transformers' own DynamicCache."
            )
    if dropout:
        raise CacheError("attention dropout is on; a bounded cache is for inference: model.eval().")
    output = attention_mask.attend(query, key, value, scaling, layer=module.layer_idx)
    return output.transpose(1, 2).contiguous(), None


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as eager attention takes it: transformers' own already is, a planned one is bool."""
    if mask.dtype != torch.bool:
        return mask
    lowest = torch.finfo(dtype).min
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, lowest)


def _base_attention(base: str, module: Any) -> Callable[..., Any]:
    if base == "eager":  # transformers keeps one of these per model, outside its registry
        eager: Callable[..., Any] = sys.modules[type(module).__module__].eager_attention_forward
        return eager
    return _registered(AttentionInterface, base)


def _registered(interface: Any, name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = interface()[name]
    return function

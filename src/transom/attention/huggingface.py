"""Policies inside transformers models, through its public attention and mask registries."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from transom.attention.attending import Attending
from transom.attention.compiling import uncompiled
from transom.attention.dispatch import attend
from transom.attention.patterns import Pattern, causal, padding, parse_pattern, sliding
from transom.attention.patterns import pattern as as_pattern
from transom.attention.patterns.shift import shifted
from transom.attention.versions import warn_if_untested
from transom.errors import CacheError, UnsupportedModelError
from transom.policies import Policy

__all__ = ["PlannedOffset", "Planner", "follows_pattern", "select_attention", "use_pattern"]

PREFIX = "transom|"
BASES = ("sdpa", "eager")


class Planner(Protocol):
    """Whoever decides, at the start of a forward pass, what it will see: a bounded cache."""

    def begin(
        self,
        tokens: int,
        batch: int,
        attention_mask: Tensor | None,
        device: torch.device,
        pattern: Pattern | None,
    ) -> Tensor | Attending | None: ...


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
    warn_if_untested()
    if config._attn_implementation is None or config._attn_implementation.startswith(PREFIX):
        return
    base = _base_of(config._attn_implementation)
    name = PREFIX + base
    AttentionInterface.register(name, partial(_attention, base=base))
    AttentionMaskInterface.register(name, partial(_mask, base=base))
    config._attn_implementation = name


@contextmanager
def use_pattern(model: Any, pattern: Pattern | Policy | str) -> Iterator[Any]:
    """While open, every attention layer of a causal language model follows a pattern too.

    A query then sees what is causal, real, within the model's own sliding window where a layer has
    one, kept by a bounded cache if there is one, and let through by the pattern; all by position in
    the text. Prompts run through the block-sparse kernel, and gradients flow. The model's
    attention is as before afterwards; contexts can be nested, the inner one being what counts.

    Args:
        model: a transformers causal language model; only `model.config` is changed.
        pattern: a pattern, a policy, or the text of either.

    Yields:
        The model.

    Raises:
        UnsupportedModelError: when the model runs an attention other than `sdpa` or `eager`.
    """
    warn_if_untested()
    if isinstance(pattern, str):
        pattern = parse_pattern(pattern)
    pattern = as_pattern(pattern) if isinstance(pattern, Policy) else pattern
    config = model.config.get_text_config(decoder=True)
    before = config._attn_implementation
    base = _base_of(before)
    name = f"{PREFIX}{base}|{_number(pattern)}"
    AttentionInterface.register(name, partial(_attention, base=base))
    AttentionMaskInterface.register(name, partial(_mask, base=base, pattern=pattern))
    config._attn_implementation = name
    try:
        yield model
    finally:
        config._attn_implementation = before


@cache
def _number(pattern: Pattern) -> int:
    """A number for each pattern there has been, so that using one again adds no name."""
    return next(_numbers)


_numbers = count(1)


def follows_pattern(config: Any) -> bool:
    """Whether the model of `config` is inside `use_pattern` now."""
    return (config.get_text_config(decoder=True)._attn_implementation or "").count("|") > 1


def _base_of(implementation: str) -> str:
    base = implementation.removeprefix(PREFIX).partition("|")[0]
    if base not in BASES:
        raise UnsupportedModelError(
            f"the model runs {base!r} attention; transom needs one of {', '.join(BASES)}: "
            "call model.set_attn_implementation('sdpa') first."
        )
    return base


@dataclass(frozen=True)
class Patterned:
    """What stands for a mask where a pattern decides, counted from the first key there is."""

    pattern: Pattern


def _mask(*, base: str, kv_offset: Any, pattern: Pattern | None = None, **kwargs: Any) -> Any:
    if pattern is None and not isinstance(kv_offset, PlannedOffset):
        return _registered(AttentionMaskInterface, base)(kv_offset=kv_offset, **kwargs)
    return _decided(kv_offset, pattern, **kwargs)


@uncompiled
def _decided(kv_offset: Any, pattern: Pattern | None, **kwargs: Any) -> Any:
    """What stands for a mask where a bounded cache, a pattern or both decide."""
    if kwargs.get("use_vmap") or not _is_causal_text(**kwargs):
        raise CacheError(
            "the model asks for its own mask pattern (bidirectional image tokens or packed "
            "sequences, say) over layers that a policy or a pattern decides about; only causal "
            "text is supported there."
        )
    q_length, attention_mask = kwargs["q_length"], kwargs["attention_mask"]
    if isinstance(kv_offset, PlannedOffset):
        batch, device = kwargs["batch_size"], kwargs["device"]
        return kv_offset.planner.begin(q_length, batch, attention_mask, device, pattern)
    assert pattern is not None
    return _patterned(pattern, int(kv_offset), **kwargs)


def _patterned(
    pattern: Pattern,
    first: int,
    *,
    q_length: int,
    kv_length: int,
    q_offset: int,
    attention_mask: Tensor | None,
    **_: Any,
) -> Patterned:
    if int(q_offset) + q_length != first + kv_length:
        raise CacheError(
            f"queries end at {int(q_offset) + q_length} and keys at {first + kv_length}; a pattern "
            "needs a cache without empty slots: a DynamicCache or a bounded one, not a static one."
        )
    seen = shifted(causal() & pattern, first)
    if attention_mask is not None:
        real = attention_mask[:, first : first + kv_length].bool()
        if not bool(real.all()):
            seen = seen & padding(real)
    return Patterned(seen)


def _is_causal_text(*, mask_function: Any = None, q_length: int, **kwargs: Any) -> bool:
    """Whether each token sees the one before it, as it does not across packed sequences."""
    if mask_function is None or q_length < 2 or kwargs["attention_mask"] is not None:
        return True
    rows = torch.arange(kwargs["batch_size"], device=kwargs["device"])[:, None]
    later = torch.arange(1, q_length, device=kwargs["device"])
    visible: Tensor = mask_function(rows, 0, later, later - 1)
    return bool(torch.as_tensor(visible).all())


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | Attending | Patterned | None,
    *,
    base: str,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    if not isinstance(attention_mask, (Attending, Patterned)):
        if base == "eager" and attention_mask is not None:
            attention_mask = _additive(attention_mask, query.dtype)
        forward = _base_attention(base, module)
        result: tuple[Tensor, Tensor | None] = forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
        return result
    return _attend(
        module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
    )


@uncompiled
def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attending: Attending | Patterned,
    *,
    scaling: float | None,
    dropout: float,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise UnsupportedModelError(
                f"{type(module).__name__} attends with {name!r}, which is not supported under a "
                "bounded policy or a pattern. Use the policy 'full' with transformers' own "
                "DynamicCache."
            )
    if dropout:
        raise CacheError(
            "attention dropout is on, which bounded caches and patterns leave out: model.eval(), "
            "or config.attention_dropout = 0 for training."
        )
    if isinstance(attending, Patterned):
        pattern = attending.pattern
        if kwargs.get("sliding_window"):
            pattern = pattern & sliding(kwargs["sliding_window"])
        output = attend(query, key, value, pattern, scale=scaling)
    else:
        output = attending.attend(query, key, value, scaling, layer=module.layer_idx)
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

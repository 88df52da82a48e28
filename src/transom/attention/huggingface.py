"""Policies inside transformers models, through its public attention and mask registries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from threading import Lock
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from transom.attention.attending import Attending
from transom.attention.causal_text import deviates
from transom.attention.compiling import uncompiled
from transom.attention.dispatch import attend
from transom.attention.eager import eager_attention_of
from transom.attention.patterns import Pattern, causal, padding, parse_pattern, sliding
from transom.attention.patterns import pattern as as_pattern
from transom.attention.patterns.shift import shifted
from transom.attention.returned_weights import Columns, Shown, weights_under, weights_within
from transom.attention.versions import collects, warn_if_untested
from transom.errors import CacheError, InputError, UnsupportedModelError
from transom.policies import Policy

__all__ = [
    "NOT_COMPUTED",
    "PlannedOffset",
    "Planner",
    "follows_pattern",
    "select_attention",
    "use_pattern",
]

PREFIX = "transom|"
BASES = ("sdpa", "eager")
# What attention may be asked for besides a mask, and the kernels here do not compute.
NOT_COMPUTED = ("softcap", "s_aux", "position_bias")


class Selected(str):
    """The name of transom's attention in one model's config.

    A copy of the config, for another model, for a file or in another process, gets the name of the
    attention that was there before.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> str:
        return self._former

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (self._former,)

    @property
    def _former(self) -> str:
        return self.removeprefix(PREFIX).partition("|")[0]


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

    @property
    def columns(self) -> Columns | None: ...


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
    the former implementation runs unchanged. Undo with `model.set_attn_implementation("sdpa")`; a
    copy of the config has what was there before.

    Raises:
        UnsupportedModelError: when the model runs an attention that takes no mask per key.
    """
    warn_if_untested()
    if config._attn_implementation is None or config._attn_implementation.startswith(PREFIX):
        return
    base = _base_of(config._attn_implementation)
    name = Selected(PREFIX + base)
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
    with _number() as number:
        name = Selected(f"{PREFIX}{base}|{number}")
        AttentionInterface.register(name, partial(_attention, base=base, patterned=True))
        AttentionMaskInterface.register(name, partial(_mask, base=base, pattern=pattern))
        config._attn_implementation = name
        try:
            yield model
        finally:
            config._attn_implementation = before
            AttentionMaskInterface.register(name, partial(_mask, base=base))  # forget the pattern


@contextmanager
def _number() -> Iterator[int]:
    """A number that no other pattern has that is in use now: registries keep names for ever."""
    with _numbering:
        number = next(number for number in count(1) if number not in _numbers)
        _numbers.add(number)
    try:
        yield number
    finally:
        _numbers.discard(number)


_numbers: set[int] = set()
_numbering = Lock()


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
    return _decided(base, kv_offset, pattern, **kwargs)


@uncompiled
def _decided(base: str, kv_offset: Any, pattern: Pattern | None, **kwargs: Any) -> Any:
    """What stands for a mask where a bounded cache, a pattern or both decide."""
    if (deviation := deviates(**kwargs)) is not None:
        raise CacheError(
            f"the model asks for {deviation}, over layers that a policy or a pattern decides "
            "about; only causal text is supported there. Feed such tokens with a DynamicCache."
        )
    q_length, attention_mask = kwargs["q_length"], kwargs["attention_mask"]
    if isinstance(kv_offset, PlannedOffset):
        planner, batch, device = kv_offset.planner, kwargs["batch_size"], kwargs["device"]
        visible = planner.begin(q_length, batch, attention_mask, device, pattern)
        # Only eager attention has weights to show; and where a pattern is to be followed, what
        # comes without this did not come from here.
        show = base == "eager" or pattern is not None
        return Shown(visible, planner.columns) if show else visible
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
    count = int(q_offset) + q_length
    if attention_mask is not None and (attention_mask.ndim != 2 or attention_mask.shape[1] < count):
        raise InputError(
            f"attention_mask is {tuple(attention_mask.shape)}; expected two dimensions, with one "
            f"column for each of the {count} tokens so far."
        )
    if count != first + kv_length:
        raise CacheError(
            f"queries end at {count} and keys at {first + kv_length}; a pattern needs a cache "
            "without empty slots: a DynamicCache or a bounded one, not a static one."
        )
    seen = shifted(causal() & pattern, first)
    if attention_mask is not None:
        real = attention_mask[:, first : first + kv_length].bool()
        if not bool(real.all()):
            seen = seen & padding(real)
    return Patterned(seen)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | Attending | Patterned | Shown | None,
    *,
    base: str,
    patterned: bool = False,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    if patterned and not isinstance(attention_mask, (Patterned, Shown)):
        raise CacheError(
            f"{type(module).__name__} attends under a mask that was made elsewhere, so the pattern "
            "would not be followed; expected causal text. Pass a 2-D attention_mask or none."
        )
    columns, asked = None, base == "eager" and _wants_weights(module, kwargs)
    if isinstance(attention_mask, Shown):
        columns, attention_mask = attention_mask.columns, attention_mask.visible
        if attention_mask is None and base == "eager":  # which always gets one otherwise
            attention_mask = query.new_ones(1, 1, 1, key.shape[2], dtype=torch.bool)
    if not isinstance(attention_mask, (Attending, Patterned)):
        if base == "eager" and attention_mask is not None:
            attention_mask = _additive(attention_mask, query.dtype)
        forward = _base_attention(base, module)
        output, weights = forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
        if asked and weights is not None and columns is not None:
            weights = columns.spread(weights)
        return output, weights
    return _attend(
        module,
        query,
        key,
        value,
        attention_mask,
        columns=columns,
        asked=asked,
        scaling=scaling,
        dropout=dropout,
        **kwargs,
    )


@uncompiled
def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attending: Attending | Patterned,
    *,
    columns: Columns | None,
    asked: bool,
    scaling: float | None,
    dropout: float,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention where a bounded cache or a pattern decides; with its weights if they are asked."""
    for name in NOT_COMPUTED:
        if kwargs.get(name) is not None:
            raise UnsupportedModelError(
                f"{type(module).__name__} attends with {name!r}, which is not supported under a "
                "bounded policy or a pattern. Use transformers' own DynamicCache."
            )
    if dropout:
        raise CacheError(
            "attention dropout is on, which bounded caches and patterns leave out: model.eval(), "
            "or config.attention_dropout = 0 for training."
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    weights = None
    if isinstance(attending, Patterned):
        pattern = attending.pattern
        if kwargs.get("sliding_window"):
            pattern = pattern & sliding(kwargs["sliding_window"])
        if asked:
            weights = weights_within(pattern, query, key, scale)
        output = attend(query, key, value, pattern, scale=scale)
    else:
        layer = module.layer_idx
        if asked:
            weights = weights_under(attending, columns, query, key, scale, layer)
        output = attending.attend(query, key, value, scale, layer=layer)
    return output.transpose(1, 2).contiguous(), weights


def _wants_weights(module: Any, given: dict[str, Any]) -> bool:
    """Whether the caller asked for attention weights, in the call or in the config."""
    config = getattr(module, "config", None)
    asked = given.get("output_attentions", getattr(config, "output_attentions", False))
    return bool(asked) or collects("attentions")  # not all models hand on what was asked


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as eager attention takes it: transformers' own already is, a planned one is bool."""
    if mask.dtype != torch.bool:
        return mask
    lowest = torch.finfo(dtype).min
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, lowest)


def _base_attention(base: str, module: Any) -> Callable[..., Any]:
    if base != "eager":
        return _registered(AttentionInterface, base)
    if (eager := eager_attention_of(module)) is not None:
        return eager
    raise UnsupportedModelError(
        f"{type(module).__name__} has no eager attention that transom can find: neither its module "
        "nor that of a parent class has an eager_attention_forward. Call "
        "model.set_attn_implementation('sdpa')."
    )


def _registered(interface: Any, name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = interface()[name]
    return function

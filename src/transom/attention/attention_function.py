"""What transformers calls for attention where a bounded cache or a pattern may decide."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from transom.attention.attending import Attending
from transom.attention.attention_module import (
    AttentionFunction,
    eager_attention_of,
    layer_index_of,
)
from transom.attention.compiling import uncompiled
from transom.attention.dispatch import attend
from transom.attention.kernels.by_blocks import attend_by_blocks
from transom.attention.mask_function import Mask, Patterned
from transom.attention.patterns import sliding
from transom.attention.returned_weights import (
    Columns,
    Shown,
    rule_of_weights,
    weights_under,
    weights_within,
)
from transom.attention.score_rule import SCORE_ARGUMENTS, ScoreRule
from transom.attention.versions import collects
from transom.errors import CacheError, UnsupportedModelError
from transom.slow_paths import log_slow_path

__all__ = ["NOT_COMPUTED", "attention"]

# Arguments of attention functions that the kernels here do not compute.
NOT_COMPUTED = ("position_bias",)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Mask,
    *,
    base: str,
    patterned: bool = False,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[Tensor, Tensor | None]:
    """Attention output, `(batch, q_len, heads, value_dim)`, and weights if they are asked for.

    Without a bounded cache or a pattern the model's former attention runs unchanged.

    Args:
        module: the attention module of a model.
        query: `(batch, heads, q_len, head_dim)`, rotated.
        key: `(batch, kv_heads, kv_len, head_dim)`, as the cache gave it out.
        value: `(batch, kv_heads, kv_len, value_dim)`, likewise.
        attention_mask: what transom's mask function gave, or a mask made elsewhere.
        base: the attention that the model ran before.
        patterned: a pattern must be followed.
        scaling: of the scores, `head_dim ** -0.5` by default.
        dropout: of the weights.
        kwargs: what else the model gives its attention function.

    Raises:
        CacheError: when the pattern would not be followed, dropout is on, or weights are asked for
            where heads keep different tokens.
        UnsupportedModelError: when the model gives an argument that is not computed here, or an
            attention module does not know its layer.
    """
    if patterned and not isinstance(attention_mask, (Patterned, Shown)):
        raise CacheError(
            f"{type(module).__name__} attends under a mask that was made elsewhere, so the pattern "
            "would not be followed; expected causal text. Pass a 2-D attention_mask or none."
        )
    columns, asked = None, base == "eager" and _wants_weights(module, kwargs)
    if isinstance(attention_mask, Shown):
        if base == "flex_attention":  # which would be compiled for each number of keys
            ruled = any(kwargs.get(name) is not None for name in SCORE_ARGUMENTS)
            base = "eager" if ruled else "sdpa"  # sdpa has neither caps nor sinks
        columns, attention_mask = attention_mask.columns, attention_mask.visible
        if attention_mask is None and base == "eager":  # some models' eager code needs a mask
            attention_mask = query.new_ones(1, 1, 1, key.shape[2], dtype=torch.bool)
    if isinstance(attention_mask, (Attending, Patterned)):
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
    if attention_mask is None and _is_for_newest(query, kwargs.get("position_ids")):
        # The kernel would take them for the first tokens.
        q_len, kv_len = query.shape[2], key.shape[2]
        seen = query.new_ones(q_len, kv_len, dtype=torch.bool).tril(kv_len - q_len)
        attention_mask = seen[None, None]
    if base == "eager" and attention_mask is not None:
        attention_mask = _additive(attention_mask, query.dtype)
    forward = _base_attention(base, module)
    output, weights = forward(
        module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
    )
    if asked and weights is not None and columns is not None:
        weights = columns.spread(weights)
    return output, weights


@uncompiled
def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attending: Attending | Patterned,
    *,
    columns: Columns | None,
    asked: bool,
    scaling: float | None,
    dropout: float,
    **kwargs: object,
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
    rule = ScoreRule.given(query.shape[-1] ** -0.5 if scaling is None else scaling, kwargs)
    weights = None
    if not rule.only_scales:
        log_slow_path(
            "attention",
            "the model caps its scores or has learned sinks, so every score of a prompt is written "
            "out: fused kernels compute neither.",
        )
    if asked:
        log_slow_path(
            "attention",
            "attention weights are asked for, so every score is written out, besides the attention "
            "itself. Leave output_attentions off for speed and memory.",
        )
    shown = rule_of_weights(rule, module, query, key, value) if asked else rule
    if isinstance(attending, Patterned):
        pattern = attending.pattern
        window = kwargs.get("sliding_window")
        if isinstance(window, int) and window:
            pattern = pattern & sliding(window)
        if asked:
            weights = weights_within(pattern, query, key, shown)
        if rule.only_scales:
            output = attend(query, key, value, pattern, scale=rule.scale)
        else:
            output = attend_by_blocks(query, key, value, pattern, rule=rule)
    else:
        layer = layer_index_of(module)
        if layer is None:
            raise UnsupportedModelError(
                f"{type(module).__name__} has no layer_idx, so its layer of the bounded cache is "
                "unknown. Give it one, or use transformers' own DynamicCache."
            )
        if attending.correction is not None:
            attending.correction.check(kwargs.get("position_ids"))
            query = attending.correction.of_queries(query, layer)
        if asked:
            weights = weights_under(attending, columns, query, key, shown, layer)
        output = attending.attend(query, key, value, rule, layer=layer)
    return output.transpose(1, 2).contiguous(), weights


def _is_for_newest(query: Tensor, positions: object) -> bool:
    """Whether a layer runs for the newest tokens of the pass only, as the last of Gemma 4 do."""
    return isinstance(positions, Tensor) and 1 < query.shape[2] < positions.shape[-1]


def _wants_weights(module: nn.Module, given: Mapping[str, object]) -> bool:
    """Whether the caller asked for attention weights, in the call or in the config."""
    config = getattr(module, "config", None)
    asked = given.get("output_attentions", getattr(config, "output_attentions", False))
    return bool(asked) or collects("attentions")  # some models do not hand on what was asked


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to be added to scores, as eager attention takes it; a planned mask is bool."""
    if mask.dtype != torch.bool:
        return mask
    lowest = torch.finfo(dtype).min
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, lowest)


def _base_attention(base: str, module: nn.Module) -> AttentionFunction:
    """The attention function that the model ran before."""
    if base != "eager":
        registered: AttentionFunction = AttentionInterface()[base]
        return registered
    if (eager := eager_attention_of(module)) is not None:
        return eager
    raise UnsupportedModelError(
        f"{type(module).__name__} has no eager attention that transom can find: neither its Python "
        "module nor that of a parent class has an eager_attention_forward. Call "
        "model.set_attn_implementation('sdpa')."
    )

"""Weights of other attention modules, as `OptimizedAttention` takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Required, TypedDict

import torch
from torch import Tensor, nn

from transom.attention.patterns import Pattern
from transom.attention.rope_type import rope_type
from transom.attention.rotary import Rotary
from transom.errors import InputError, UnsupportedModelError
from transom.policies import Policy

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["Weights", "of_llama", "of_multihead_attention"]

LIKE_LLAMA = ("llama", "mistral", "qwen2")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


class ModuleSettings(TypedDict, total=False):
    """Arguments of `OptimizedAttention`."""

    hidden_size: Required[int]
    num_heads: Required[int]
    num_kv_heads: int
    pattern: Pattern | Policy | str | None
    rotary: Rotary
    head_dim: int
    scale: float
    dropout: float
    bias: bool
    out_bias: bool
    layer_idx: int
    device: torch.device
    dtype: torch.dtype


class Weights(NamedTuple):
    """What an `OptimizedAttention` is made with, and its state; tensors are those of the source."""

    settings: ModuleSettings
    state: dict[str, Tensor]
    training: bool


def of_llama(
    source: nn.Module | Mapping[str, Tensor],
    config: PretrainedConfig,
    pattern: Pattern | Policy | str | None,
) -> Weights:
    """Weights of an attention layer of transformers; see `OptimizedAttention.from_llama`.

    Raises:
        UnsupportedModelError: if the model attends differently from Llama, or its layers slide over
            a window and no pattern is given.
        InputError: if weights are missing or unknown.
    """
    if config.model_type not in LIKE_LLAMA:
        raise UnsupportedModelError(
            f"{config.model_type} may attend differently from Llama (norms, soft caps, scales); "
            f"from_llama takes {', '.join(LIKE_LLAMA)}."
        )
    window = getattr(config, "sliding_window", None)
    if window is not None and pattern is None:
        raise UnsupportedModelError(
            f"layers of this {config.model_type} slide over {window} tokens; give the pattern of "
            f"this layer: from_llama(..., pattern=sliding({window})), or causal()."
        )
    module = source if isinstance(source, nn.Module) else None
    state = dict(source.state_dict() if isinstance(source, nn.Module) else source)
    required = {f"{name}.weight" for name in PROJECTIONS}
    allowed = required | {f"{name}.bias" for name in PROJECTIONS}
    missing, unknown = sorted(required - set(state)), sorted(set(state) - allowed)
    if missing or unknown:
        raise InputError(
            f"from_llama: missing are {missing or 'none'}, unknown are {unknown or 'none'}; "
            "expected the state of one attention layer: q_proj, k_proj, v_proj and o_proj, each "
            "with a weight and perhaps a bias."
        )
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    settings: ModuleSettings = {
        "hidden_size": config.hidden_size,
        "num_heads": heads,
        "num_kv_heads": getattr(config, "num_key_value_heads", None) or heads,
        "head_dim": head_dim,
        "pattern": pattern,
        "rotary": Rotary.from_config(config),
        "dropout": getattr(config, "attention_dropout", 0.0),
        "bias": "q_proj.bias" in state,
        "out_bias": "o_proj.bias" in state,
        "scale": head_dim**-0.5 * _rotation_scale(config) ** 2,
        "layer_idx": getattr(module, "layer_idx", 0),
    }
    return _weights(settings, state, training=module is None or module.training)


def of_multihead_attention(source: object, pattern: Pattern | Policy | str) -> Weights:
    """Weights of torch's attention; see `OptimizedAttention.from_multihead_attention`.

    Raises:
        InputError: if the source is not an `nn.MultiheadAttention`, or has `kdim`, `vdim`,
            `add_bias_kv` or `add_zero_attn`.
    """
    if not isinstance(source, nn.MultiheadAttention):
        raise InputError(
            f"from_multihead_attention: source is a {type(source).__name__}; expected a "
            "torch.nn.MultiheadAttention."
        )
    size = source.embed_dim
    extras = {
        "kdim": source.kdim != size,
        "vdim": source.vdim != size,
        "add_bias_kv": source.bias_k is not None,
        "add_zero_attn": source.add_zero_attn,
    }
    if any(extras.values()):
        names = ", ".join(name for name, is_set in extras.items() if is_set)
        raise InputError(
            f"from_multihead_attention: the module has {names}; expected plain self-attention, "
            "with keys and values of embed_dim dimensions and nothing added to them."
        )
    packed: dict[str, Tensor | None] = {
        "weight": source.in_proj_weight,
        "bias": source.in_proj_bias,
    }
    state = {f"o_proj.{kind}": tensor for kind, tensor in source.out_proj.state_dict().items()}
    for kind, tensor in packed.items():
        parts = () if tensor is None else tensor.detach().chunk(3)
        state |= {f"{name}.{kind}": part for name, part in zip(PROJECTIONS, parts, strict=False)}
    settings: ModuleSettings = {
        "hidden_size": size,
        "num_heads": source.num_heads,
        "pattern": pattern,
        "dropout": source.dropout,
        "bias": source.in_proj_bias is not None,
    }
    return _weights(settings, state, source.training)


def _weights(settings: ModuleSettings, state: dict[str, Tensor], training: bool) -> Weights:
    weight = state["q_proj.weight"]
    return Weights({**settings, "device": weight.device, "dtype": weight.dtype}, state, training)


def _rotation_scale(config: PretrainedConfig) -> float:
    """The factor by which the model scales what it rotates (YaRN); a `Rotary` does not scale."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    kind = rope_type(config)
    if kind in (None, "default"):
        return 1.0
    return float(ROPE_INIT_FUNCTIONS[kind](config)[1])

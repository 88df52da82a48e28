"""A tiny random model of any kind: its default config with every dimension made small."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PretrainedConfig

from tests.helpers.model_kinds.exceptions import SETTINGS

__all__ = ["VOCABULARY", "kinds", "small_config", "small_model"]

VOCABULARY = 97
LAYERS = 4  # at least; more where fewer would not have a layer of every kind
MOST_LAYERS = 12
MOST_WEIGHTS = 8_000_000
LOUD = 0.3  # of weights: attention has to depend on what is in the cache, and where

Rule = Callable[[Any], Any]


def _at_most(largest: int) -> Rule:
    return lambda value: min(value, largest)


def _head_dim(value: int) -> int:
    return 8 if value <= 128 else 16


# What becomes of a number, by the name of its field; the first name that fits decides. Heads and
# dimensions go together: 4 heads of 8 make a width of 32, 4 states of 16 make twice that.
RULES: list[tuple[str, Rule]] = [
    (r"(\w+_)?vocab_size(_\w+)?", lambda _: VOCABULARY),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len|max_sequence_length", lambda _: 256),
    (r"initializer_range|init_std|initializer_factor", lambda _: LOUD),
    (r"\w*(num|n)_?(key_value|kv)_heads|(num_)?kv_heads|n_head_kv|num_kv", lambda n: min(n, 2)),
    (r"mamba_d_head|mamba_head_?dim", lambda _: 16),
    (r"\w*heads|n_head", lambda _: 4),
    (r"\w*head_dim|kv_channels|head_size", _head_dim),
    (r"rotary_dim", lambda _: 4),
    (r"(n|num)_(shared_experts)", _at_most(1)),
    (r"index_topk\w*|keep_window_size", lambda n: n),  # what chooses from texts longer than here
    (r"\w*(experts_per_tok|experts_per_token|moe_k|top_?k|top_k_experts)", _at_most(2)),
    (r"(n_|num_)?(topk_)?groups?|topk_group|n_group", _at_most(1)),
    (r"(moe_)?(n|num)_?\w*experts", lambda _: 4),
    (r"(moe|shared)\w*_(size|dim)|expert_ffn_hidden_size", lambda _: 16),
    (r"ffn_hidden_size", lambda _: 48),
    (r"hidden_size_per_layer_input", lambda _: 8),
    (r"\w*hidden_size(_global)?|n_embd|d_model|lru_width", lambda _: 32),
    (r"word_embed_proj_dim|embedding_(size|dim)", lambda _: 32),
    (r"\w*(intermediate_size|ffn_dim|dim_ff|n_inner)", lambda _: 48),
    (r"\w*(_size|_dim|_rank|_width|_d_state)", _at_most(16)),
]
LAYER_COUNTS = r"num_hidden_layers|n_layers?|num_layers|(decoder|encoder)_layers"
SLIDES = ("sliding_window", "sliding_window_size", "attention_window_size", "attention_chunk_size")


def kinds() -> list[str]:
    """The `model_type` of every causal language model, those of vision-language models included."""
    return sorted({config.model_type for config in MODEL_FOR_CAUSAL_LM_MAPPING})


def small_model(config: PretrainedConfig) -> Any:
    """A model with the same random weights each time, all different; float32, for evaluation.

    Raises:
        ValueError: when its config is not small.
    """
    with torch.device("meta"):
        weights = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if weights > MOST_WEIGHTS:
        raise ValueError(f"{weights:,} weights are too many; make its config smaller.")
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:  # norms, biases and sinks: at their first values they do nothing
                weight.add_(torch.randn_like(weight), alpha=LOUD / 2)
    return model


def small_config(kind: str) -> PretrainedConfig:
    """The config of a model with few weights that has every part which the full one has."""
    config = next(x for x in MODEL_FOR_CAUSAL_LM_MAPPING if x.model_type == kind)
    _, settings = SETTINGS.get(kind, ("", {}))
    return _small(config(), settings)


def _small(config: PretrainedConfig, settings: dict[str, Any]) -> PretrainedConfig:
    """A config of the same class; `settings` come before every rule, of parts as well."""
    fields = _fields(config)
    changed: dict[str, Any] = {}
    for name in config.sub_configs:
        if isinstance(fields.get(name), PretrainedConfig):
            changed[name] = _small(fields[name], settings.get(name, {}))
    counts = [n for name, n in fields.items() if re.fullmatch(LAYER_COUNTS, name) and n]
    count = max(counts, default=LAYERS)
    per_layer = {
        name: value
        for name, value in fields.items()
        if isinstance(value, (list, tuple)) and len(value) == count
    }
    layers = _stretch(count, per_layer.values())
    mixed = len(set(fields.get("layer_types") or ())) > 1
    for name, value in fields.items():
        if name in SLIDES:
            if mixed and value:  # where every layer slides, no text here is longer than its window
                changed[name] = 8
        elif name == "is_decoder":
            changed[name] = True
        elif re.fullmatch(LAYER_COUNTS, name):
            changed[name] = len(layers)
        elif name in per_layer:
            changed[name] = type(value)(value[layers.start : layers.stop])
        elif name.endswith("token_id"):
            changed[name] = {"pad_token_id": 0, "bos_token_id": 1}.get(name, 2)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            rule = next((rule for rule in RULES if re.fullmatch(rule[0], name)), None)
            if rule is not None:
                changed[name] = rule[1](value)
    if "kv_lora_rank" in fields and "num_key_value_heads" in fields:  # latent: a key for each head
        changed["num_key_value_heads"] = 4
    changed |= {name: value for name, value in settings.items() if name not in config.sub_configs}
    return type(config)(**changed)


def _fields(config: PretrainedConfig) -> dict[str, Any]:
    """What its class takes, and the values that it has."""
    fields = {}
    for name, parameter in inspect.signature(type(config).__init__).parameters.items():
        if name not in ("self", "args", "kwargs"):
            try:
                fields[name] = getattr(config, name, None)
            except RuntimeError:  # it differs between layers
                fields[name] = parameter.default
    return fields


def _stretch(count: int, per_layer: Iterable[Sequence[Any]]) -> range:
    """The shortest stretch of `count` layers with one of every kind; of several, the last."""
    kinds = [list(map(str, x)) for x in per_layer]
    for length in range(min(LAYERS, count), min(MOST_LAYERS, count) + 1):
        for start in range(count - length, -1, -1):
            if all(set(x[start : start + length]) == set(x) for x in kinds):
                return range(start, start + length)
    return range(min(LAYERS, count))

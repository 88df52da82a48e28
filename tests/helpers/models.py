"""Small random models of each family, and the dense reference run through a whole model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    Qwen3Config,
    SmolLM3Config,
)

from tests.helpers.positional_reference import reference_attention
from transom.attention.attention_module import eager_attention_of
from transom.attention.rotary import Rotary

VOCABULARY = 97
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**COMMON, "num_key_value_heads": 2}
CONFIGS = {
    "llama": LlamaConfig(**GROUPED),
    "qwen3": Qwen3Config(**GROUPED, head_dim=16),
    "mistral": MistralConfig(**GROUPED, head_dim=8, sliding_window=None),
    "mistral-sliding": MistralConfig(**GROUPED, head_dim=8, sliding_window=40),
    "gemma3": Gemma3TextConfig(
        **GROUPED,
        head_dim=16,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "full_attention"],
    ),
    "gpt-neox": GPTNeoXConfig(**COMMON),
    "phi": PhiConfig(**GROUPED),
    "lfm2": Lfm2Config(**GROUPED, layer_types=["conv", "full_attention", "full_attention"]),
    "smollm3": SmolLM3Config(**GROUPED, no_rope_layers=[1, 0, 1]),
}


def tiny(family: str, **changes: Any) -> Any:
    """A small random model: its weights differ in every layer, and are always the same."""
    config = type(CONFIGS[family]).from_dict({**CONFIGS[family].to_dict(), **changes})
    torch.manual_seed(7)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


def tokens(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, shape, generator=generator)


def distinct(*shape: int, seed: int = 0) -> Tensor:
    """Ids that never repeat in a row: equal tokens have keys of equal norm, so their scores tie."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(VOCABULARY - 3, generator=generator) + 3 for _ in range(shape[0])]
    return torch.stack(rows)[:, : shape[1]]


def difference(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference."""
    assert not torch.isnan(a).any()
    return float((a - b).abs().max())


def full_layers(config: Any) -> list[int]:
    """Indices of the layers with full attention; all layers if none has it."""
    kinds = getattr(config, "layer_types", None) or []
    found = [index for index, kind in enumerate(kinds) if kind == "full_attention"]
    return found or list(range(config.num_hidden_layers))


class Rule(NamedTuple):
    """How a model's attention turns products into weights."""

    scale: float
    softcap: float | None = None
    sinks: Tensor | None = None  # (heads,)

    def scores(self, products: Tensor) -> Tensor:
        scores = products * self.scale
        return scores if self.softcap is None else self.softcap * torch.tanh(scores / self.softcap)

    def sum_of(self, scores: Tensor, head: int) -> Tensor:
        """The log of the sum of the exponentials of one head's scores, its sink among them."""
        if self.sinks is None:
            return scores.logsumexp(0)
        return torch.cat((scores, self.sinks[head, None].to(scores))).logsumexp(0)

    def weights(self, products: Tensor, head: int) -> Tensor:
        """Weights of one query of one head, `(keys,)`; their sum is below 1 with a sink."""
        scores = self.scores(products)
        return (scores - self.sum_of(scores, head)).exp()


@contextmanager
def full_attention_is(model: Any, attend: Callable[..., Tensor]) -> Iterator[None]:
    """While open, layers of `model` with full attention compute something else.

    `attend(q, k, v, mask, layer=, rotary=, rule=)` gets queries and keys with the model's rotary
    applied, the 2-D mask or None, which of the full layers it is, its rotary or None, and how it
    computes weights.
    """
    config = model.config
    # Where Flint has full attention it has no positions.
    rotary = None if config.model_type == "flint" else Rotary.from_config(config)
    flags = getattr(config, "no_rope_layers", None) or [1] * config.num_hidden_layers
    kinds = getattr(config, "layer_types", None) or []
    full = full_layers(config)
    base = config._attn_implementation.removeprefix("transom|")

    def mask(*, attention_mask: Tensor | None = None, local_size: int | None = None, **kw: Any):
        if local_size is not None and "sliding_attention" in kinds and "full_attention" in kinds:
            make = AttentionMaskInterface()[base]
            return make(attention_mask=attention_mask, local_size=local_size, **kw)
        return attention_mask

    def attention(module, q, k, v, mask, scaling=None, **kw):
        index = module.layer_idx
        if index not in full:
            own = eager_attention_of(module) if base == "eager" else AttentionInterface()[base]
            return own(module, q, k, v, mask, scaling=scaling, **kw)
        rule = Rule(scaling, kw.get("softcap"), kw.get("s_aux"))
        own = {"layer": full.index(index), "rotary": rotary if flags[index] else None}
        output = attend(q, k, v, mask, rule=rule, **own)
        return output.transpose(1, 2).contiguous(), None

    before = config._attn_implementation
    AttentionInterface.register("reference", attention)
    AttentionMaskInterface.register("reference", mask)
    config._attn_implementation = "reference"
    try:
        yield
    finally:
        config._attn_implementation = before
        AttentionInterface._global_mapping.pop("reference")
        AttentionMaskInterface._global_mapping.pop("reference")


@contextmanager
def dense_reference(
    model: Any, policy: Any, compact: bool = True, states: list[Any] | None = None
) -> Any:
    """While open, full-attention layers of `model` run the slow reference of `policy`.

    Each appends its keys and values, `(batch, kv_heads, tokens, dim)`, to `states` if it is given;
    keys are as the model rotates them.
    """

    def attend(q, k, v, mask, *, layer, rotary, rule):
        if states is not None:
            states.append((k, v))
        valid = None if mask is None else mask.bool()
        places = torch.arange(q.shape[2])[None].expand(q.shape[0], -1)
        if valid is not None:
            places = (valid.long().cumsum(1) - 1).clamp(min=0)
        if rotary is not None:
            cos, sin = rotary.angles(-places)
            q, k = (rotary.rotate(x, cos[:, None], sin[:, None]) for x in (q, k))
        return reference_attention(
            q, k, v, policy, rotary, valid=valid, compact=compact,
            scaling=rule.scale, softcap=rule.softcap, sinks=rule.sinks,
        )  # fmt: skip

    with full_attention_is(model, attend):
        yield model


def dense_logits(
    model: Any, ids: Tensor, policy: Any, mask: Tensor | None = None, compact: bool = True
) -> Tensor:
    """Logits of one dense pass under the policy, by the slow reference."""
    positions = None if mask is None else (mask.long().cumsum(1) - 1).clamp(min=0)
    with dense_reference(model, policy, compact), torch.no_grad():
        return model(ids, attention_mask=mask, position_ids=positions, use_cache=False).logits


def chunked_logits(
    model: Any, ids: Tensor, cache: Any, sizes: list[int], mask: Tensor | None = None
) -> Tensor:
    """Logits of the same ids fed through `cache` in chunks of the given sizes."""
    positions = None if mask is None else (mask.long().cumsum(1) - 1).clamp(min=0)
    logits, start = [], cache.get_seq_length()
    with torch.no_grad():
        for size in sizes:
            stop = start + size
            logits.append(
                model(
                    ids[:, start:stop],
                    past_key_values=cache,
                    attention_mask=None if mask is None else mask[:, :stop],
                    position_ids=None if positions is None else positions[:, start:stop],
                ).logits
            )
            start = stop
    return torch.cat(logits, dim=1)


def left_padded(lengths: list[int], total: int) -> torch.Tensor:
    return torch.stack([(torch.arange(total) >= total - length).long() for length in lengths])


def ids_of(length: int, seed: int = 0) -> list[int]:
    return tokens(length, seed=seed).tolist()

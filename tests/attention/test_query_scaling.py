"""Models that scale queries by position: they are recognized, and keep their true positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, DynamicCache

from tests.helpers.models import (
    CONFIGS,
    chunked_logits,
    dense_logits,
    difference,
    tiny,
    tokens,
)
from transom import BoundedCache, Context
from transom.attention.trial import scales_by_position, trial
from transom.context import REBASE_AT
from transom.context.scoring import losses
from transom.errors import CacheError
from transom.policies import parse


def scaling(beta: float) -> Any:
    """A tiny Ministral 3, whose queries grow with the logarithm of their position."""
    config = CONFIG_MAPPING["ministral3"](
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=None,
        max_position_embeddings=2048,
        initializer_range=0.4,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 4.0,
            "original_max_position_embeddings": 512,
            "llama_4_scaling_beta": beta,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        },
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


@pytest.mark.parametrize(("beta", "expected"), [(0.5, True), (0.1, True), (0.0, False)])
def test_a_scale_is_noticed(beta: float, expected: bool) -> None:
    assert scales_by_position(trial(scaling(beta).config)) is expected


@pytest.mark.parametrize("family", CONFIGS)
def test_other_models_do_not_scale(family: str) -> None:
    assert not scales_by_position(trial(tiny(family).config))


@pytest.mark.parametrize("policy", ["window:64", "sinks:4,window=60"])
def test_a_context_keeps_the_true_positions(policy: str) -> None:
    model, ids = scaling(0.5), tokens(REBASE_AT + 1500)
    context = Context(model, policy=policy, chunk=2000)
    got = context.score(ids.tolist())
    cache = BoundedCache(parse(policy), config=model.config)
    logits = chunked_logits(model, ids[None], cache, [2000] * 4 + [len(ids) - 8000])[0]
    expected = losses(logits[:-1], ids[1:]).numpy()
    assert np.abs(got[1:] - expected).max() < 1e-2
    assert context.usage.position == len(ids)


def test_a_cache_refuses_to_start_positions_over() -> None:
    model = scaling(0.5)
    cache = BoundedCache(parse("window:16"), config=model.config)
    chunked_logits(model, tokens(1, 40), cache, [40])
    with pytest.raises(CacheError, match="scales its queries by their position"):
        cache.rebase(10)
    assert cache.next_position == cache.seen


def llama4(**changes: Any) -> Any:
    """A tiny Llama 4: the layers with full attention do not rotate, and scale their queries."""
    config = CONFIG_MAPPING["llama4_text"](
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        intermediate_size_mlp=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        head_dim=8,
        max_position_embeddings=2048,
        attention_chunk_size=128,
        floor_scale=4,
        attn_scale=0.5,
        initializer_range=0.3,
        **changes,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


@pytest.mark.parametrize("policy", ["window:17", "sinks:3,window=17"])
def test_llama_4_keeps_the_scale_of_true_positions(policy: str) -> None:
    model, ids = llama4(), tokens(1, 44)
    assert scales_by_position(trial(model.config))
    expected = dense_logits(model, ids, parse(policy))
    plain = dense_logits(llama4(attn_temperature_tuning=False), ids, parse(policy))
    assert difference(plain, expected) > 0.1  # the scale matters here
    for sizes in ([44], [20, 1, 1, 22], [1] * 44):
        cache = BoundedCache(policy, config=model.config)
        assert difference(chunked_logits(model, ids, cache, sizes), expected) < 2e-4


@pytest.mark.parametrize("policy", ["full", "window:64", "snapkv:64", "sinks:3,window=60,kv=int8"])
def test_llama_4_without_eviction_is_as_with_its_own_cache(policy: str) -> None:
    model, ids = llama4(), tokens(2, 44)
    expected = chunked_logits(model, ids, DynamicCache(config=model.config), [44])
    for sizes in ([44], [20, 1, 1, 22], [1] * 44):
        cache = BoundedCache(policy, config=model.config)
        assert difference(chunked_logits(model, ids, cache, sizes), expected) < 2e-4

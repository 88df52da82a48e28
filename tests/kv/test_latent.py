"""Latent attention: models that cache a latent and one rotated part of a key."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV2Config,
    DeepseekV3Config,
    DynamicCache,
    Glm4MoeLiteConfig,
    MiniCPM3Config,
    YoutuConfig,
)

from tests.helpers.models import chunked_logits, difference, tokens
from tests.helpers.subsequence_reference import logits_by_subsequence
from transom import BoundedCache, Context
from transom.errors import UnsupportedModelError
from transom.kv.latent_layer import LatentLayer, QuantizedLatentLayer
from transom.policies import ModelShape, kv_bytes, parse

LATENT, ROTATED = 12, 8
SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "kv_lora_rank": LATENT,
    "q_lora_rank": 16,
    "qk_rope_head_dim": ROTATED,
    "qk_nope_head_dim": 6,
    "v_head_dim": 10,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
CONFIGS = {
    "deepseek-v2": DeepseekV2Config(**SMALL, **EXPERTS),
    "deepseek-v2-lite": DeepseekV2Config(**{**SMALL, "q_lora_rank": None}, **EXPERTS),
    "deepseek-v3": DeepseekV3Config(**SMALL, **EXPERTS),
    "deepseek-v3-halves": DeepseekV3Config(**SMALL, **EXPERTS, rope_interleave=False),
    "deepseek-v3-yarn": DeepseekV3Config(**SMALL, **EXPERTS, rope_parameters=YARN),
    "glm-4-moe-lite": Glm4MoeLiteConfig(**SMALL, **EXPERTS),
    "minicpm3": MiniCPM3Config(**SMALL),
    "youtu": YoutuConfig(**SMALL),
}
POLICIES = ("window:17", "sinks:3,window=17", "hierarchical:24,global=4")
TOKENS = 44
CUTS = ([TOKENS], [20, 1, 1, 22], [1] * TOKENS)


def tiny(kind: str, layers: int = 1) -> Any:
    config = type(CONFIGS[kind]).from_dict({**CONFIGS[kind].to_dict(), "num_hidden_layers": layers})
    if kind == "glm-4-moe-lite":
        config.mlp_layer_types = (["dense"] + ["sparse"] * layers)[:layers]
    torch.manual_seed(7)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("policy", POLICIES)
def test_queries_see_what_a_policy_keeps(kind: str, policy: str) -> None:
    model, ids = tiny(kind), tokens(1, TOKENS)
    expected = logits_by_subsequence(model, ids, parse(policy))
    for cuts in CUTS:
        cache = BoundedCache(policy, config=model.config)
        assert difference(chunked_logits(model, ids, cache, cuts), expected) < 1e-4
        assert type(cache.layers[0]) is LatentLayer


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("policy", ["full", "sinks:3,window=60", "full:kv=int8"])
def test_without_eviction_the_model_is_as_with_its_own_cache(kind: str, policy: str) -> None:
    model, ids = tiny(kind, layers=2), tokens(2, TOKENS)
    expected = chunked_logits(model, ids, DynamicCache(config=model.config), [TOKENS])
    for cuts in CUTS:
        cache = BoundedCache(policy, config=model.config)
        assert difference(chunked_logits(model, ids, cache, cuts), expected) < 1e-4


@pytest.mark.parametrize("policy", POLICIES)
def test_padded_rows_are_as_each_row_alone(policy: str) -> None:
    model, ids = tiny("deepseek-v3", layers=2), tokens(2, TOKENS)
    mask = torch.ones(2, TOKENS, dtype=torch.int64)
    mask[0, :9] = 0
    cache = BoundedCache(policy, config=model.config)
    together = chunked_logits(model, ids, cache, [20, 1, TOKENS - 21], mask)
    for row, start in ((0, 9), (1, 0)):
        alone = BoundedCache(policy, config=model.config)
        expected = chunked_logits(model, ids[row : row + 1, start:], alone, [TOKENS - start])
        assert difference(together[row : row + 1, start:], expected) < 1e-4


def test_quantized_latents_stay_close() -> None:
    model, ids = tiny("deepseek-v3", layers=2), tokens(1, TOKENS)
    exact = BoundedCache("sinks:3,window=30", config=model.config)
    coded = BoundedCache("sinks:3,window=30,kv=int8", config=model.config)
    expected = chunked_logits(model, ids, exact, [1] * TOKENS)
    assert type(coded.layers[0]) is QuantizedLatentLayer
    found = chunked_logits(model, ids, coded, [1] * TOKENS)
    assert difference(found, expected) < 0.2 * float(expected.std())


@pytest.mark.parametrize("policy", ["window:17", "sinks:3,window=17", "sinks:3,window=17,kv=int8"])
def test_a_policy_prices_latents_exactly(policy: str) -> None:
    model = tiny("deepseek-v3", layers=2)
    shape = ModelShape.from_config(model.config)
    assert shape.head_bytes == 4 * (LATENT + ROTATED)
    cache = BoundedCache(policy, config=model.config)
    chunked_logits(model, tokens(1, TOKENS), cache, [TOKENS])
    assert cache.nbytes == kv_bytes(parse(policy), shape, TOKENS)


def test_beams_copies_and_rebase() -> None:
    model, ids = tiny("deepseek-v3", layers=2), tokens(1, TOKENS)
    asked = {"max_new_tokens": 12, "num_beams": 3, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        own = model.generate(ids, **asked)
        cache = BoundedCache("sinks:3,window=90", config=model.config)
        assert torch.equal(model.generate(ids, past_key_values=cache, **asked), own)

    cache = BoundedCache("sinks:3,window=17", config=model.config)
    chunked_logits(model, ids, cache, [TOKENS])
    twin, moved = cache.fork(), cache.fork()
    moved.rebase(5)
    more = tokens(1, 6, seed=1)
    longer = torch.cat((ids, more), dim=1)
    expected = chunked_logits(model, longer, cache, [2, 4])
    assert difference(chunked_logits(model, longer, twin, [6]), expected) < 1e-4
    places = torch.arange(TOKENS - 5, TOKENS + 1)[None]
    with torch.no_grad():
        found = model(more, past_key_values=moved, position_ids=places).logits
    assert difference(found, expected) < 1e-4


def test_a_saved_context_goes_on(tmp_path: Any) -> None:
    model, ids = tiny("deepseek-v3", layers=2), tokens(1, TOKENS)
    context = Context(model, None, "sinks:3,window=17")
    context.append(ids[0])
    context.save(tmp_path / "state")
    again = Context.load(tmp_path / "state", model, None)
    more = tokens(1, 5, seed=1)[0]
    assert np.array_equal(again.score(more), context.score(more))


def test_bfloat16() -> None:
    model, ids = tiny("deepseek-v3").to(torch.bfloat16), tokens(1, TOKENS)
    expected = logits_by_subsequence(model, ids, parse("sinks:3,window=17"))
    cache = BoundedCache("sinks:3,window=17", config=model.config)
    found = chunked_logits(model, ids, cache, [20, 1, 1, 22])
    assert difference(found, expected) < 0.1 * float(expected.float().std()) + 0.25


@pytest.mark.parametrize(
    "policy", ["snapkv:64", "hierarchical:8,global=90,recall=blocks,block=4,blocks=2,chunk=2"]
)
def test_policies_that_attend_to_stored_keys_are_refused(policy: str) -> None:
    model = tiny("deepseek-v3")
    with pytest.raises(UnsupportedModelError, match="makes its keys and values of latents"):
        BoundedCache(policy, config=model.config)


def test_latents_with_rotary_scaling_by_length() -> None:
    scaling = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "original_max_position_embeddings": 32,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 3.0, 4.0, 5.0],
        "factor": 4.0,
    }
    config = MiniCPM3Config(**SMALL, num_hidden_layers=1, rope_parameters=scaling)
    torch.manual_seed(7)
    model, ids = AutoModelForCausalLM.from_config(config).eval(), tokens(1, TOKENS)
    expected = logits_by_subsequence(model, ids, parse("sinks:3,window=17"))  # all of them short
    for cuts in CUTS:
        cache = BoundedCache("sinks:3,window=17", config=model.config)
        assert difference(chunked_logits(model, ids, cache, cuts), expected) < 1e-4

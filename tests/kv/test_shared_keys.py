"""Models whose last layers attend to the keys of earlier ones: Gemma 3n and Gemma 4."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, Gemma3nTextConfig, Gemma4TextConfig

from tests.helpers.models import chunked_logits, dense_logits, difference, tokens
from transom import BoundedCache, Context
from transom.attention.huggingface import select_attention, use_pattern
from transom.errors import UnsupportedModelError
from transom.policies import parse

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "sliding_window": 8,
    "vocab_size_per_layer_input": 97,
    "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 3,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "gemma-3n": Gemma3nTextConfig(
        **SMALL, laurel_rank=4, altup_num_inputs=2, activation_sparsity_pattern=None
    ),
    # Its layers with full attention have keys of another size.
    "gemma-4": Gemma4TextConfig(**SMALL, global_head_dim=16),
    "gemma-4-all-own": Gemma4TextConfig(**{**SMALL, "num_kv_shared_layers": 0}, global_head_dim=16),
}
POLICIES = ("window:17", "sinks:3,window=17", "hierarchical:24,global=4")
TOKENS = 44
CUTS = ([TOKENS], [20, 1, 1, 22], [1] * TOKENS)


def tiny(kind: str, **how: Any) -> Any:
    torch.manual_seed(7)
    config = type(CONFIGS[kind]).from_dict(CONFIGS[kind].to_dict())
    return AutoModelForCausalLM.from_config(config, **how).eval()


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("policy", POLICIES)
def test_queries_see_what_a_policy_keeps(kind: str, policy: str) -> None:
    model, ids = tiny(kind), tokens(1, TOKENS)
    expected = dense_logits(model, ids, parse(policy))
    for cuts in CUTS:
        found = chunked_logits(model, ids, BoundedCache(policy, config=model.config), cuts)
        assert difference(found, expected) < 2e-4


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("policy", ["full", "sinks:3,window=60", "full:kv=int8"])
def test_without_eviction_the_model_is_as_with_its_own_cache(kind: str, policy: str) -> None:
    model, ids = tiny(kind), tokens(2, TOKENS)
    expected = chunked_logits(model, ids, DynamicCache(config=model.config), [TOKENS])
    for cuts in CUTS:
        found = chunked_logits(model, ids, BoundedCache(policy, config=model.config), cuts)
        assert difference(found, expected) < 2e-4


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("keep", [1, 5])
def test_shared_layers_may_run_for_the_newest_tokens_only(implementation: str, keep: int) -> None:
    model = tiny("gemma-4", attn_implementation=implementation)
    for count in 6, TOKENS:  # within the sliding window, where no mask is made, and past it
        ids = tokens(1, count)
        expected = dense_logits(model, ids, parse("sinks:3,window=17"))[:, -keep:]
        cache = BoundedCache("sinks:3,window=17", config=model.config)
        with torch.no_grad():
            found = model(ids, past_key_values=cache, logits_to_keep=keep).logits
        assert difference(found, expected) < 2e-4


def test_the_model_is_unchanged_without_a_bounded_cache() -> None:
    model, ids = tiny("gemma-4"), tokens(1, 6)
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits[:, -3:]
        select_attention(model.config)
        for cache in None, DynamicCache(config=model.config):
            found = model(ids, past_key_values=cache, logits_to_keep=3).logits
            assert difference(found, expected) < 1e-5


@pytest.mark.parametrize("keep", [0, 1, 4])
def test_patterns_reach_shared_layers(keep: int) -> None:
    model, ids = tiny("gemma-4"), tokens(1, TOKENS)
    with torch.no_grad(), use_pattern(model, "sinks:3,window=17"):
        every = model(ids, use_cache=False).logits
        found = model(ids, use_cache=False, logits_to_keep=keep).logits
    assert difference(found, every[:, -keep:]) < 1e-5


@pytest.mark.parametrize("kind", ["gemma-3n", "gemma-4"])
def test_padded_rows_are_as_each_row_alone(kind: str) -> None:
    model, ids = tiny(kind), tokens(2, TOKENS)
    mask = torch.ones(2, TOKENS, dtype=torch.int64)
    mask[0, :9] = 0
    cache = BoundedCache("sinks:3,window=17", config=model.config)
    together = chunked_logits(model, ids, cache, [20, 1, TOKENS - 21], mask)
    for row, start in ((0, 9), (1, 0)):
        alone = BoundedCache("sinks:3,window=17", config=model.config)
        expected = chunked_logits(model, ids[row : row + 1, start:], alone, [TOKENS - start])
        assert difference(together[row : row + 1, start:], expected) < 2e-4


@pytest.mark.parametrize("kind", ["gemma-3n", "gemma-4"])
def test_beams_and_contexts(kind: str, tmp_path: Any) -> None:
    model, ids = tiny(kind), tokens(1, TOKENS)
    asked = {"max_new_tokens": 8, "num_beams": 3, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        own = model.generate(ids, **asked)
        cache = BoundedCache("sinks:3,window=90", config=model.config)
        assert torch.equal(model.generate(ids, past_key_values=cache, **asked), own)
    context = Context(model, None, "sinks:3,window=17")
    context.append(ids[0])
    context.save(tmp_path / "state")
    again, more = Context.load(tmp_path / "state", model, None), tokens(1, 5, seed=1)[0]
    assert (again.score(more) == context.score(more)).all()


@pytest.mark.parametrize(
    "policy", ["snapkv:64", "hierarchical:8,global=90,recall=blocks,block=4,blocks=2,chunk=2"]
)
def test_policies_that_attend_to_stored_keys_are_refused(policy: str) -> None:
    model = tiny("gemma-4")
    with pytest.raises(UnsupportedModelError, match="attends 2 times to the keys of layer 3"):
        BoundedCache(policy, config=model.config)

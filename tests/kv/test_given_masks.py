"""Masks that were made before the forward pass, by `create_causal_mask` or by hand."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache
from transformers.masking_utils import create_causal_mask

from tests.helpers.models import difference, tiny, tokens
from transom import BoundedCache
from transom.attention.huggingface import use_pattern
from transom.errors import CacheError

POLICIES = ("full", "sinks:4,window=8", "snapkv:16")


def made_for(model, cache, ids):
    states = model.get_input_embeddings()(ids)
    return create_causal_mask(model.config, states, None, cache)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_a_mask_that_transformers_made_for_the_cache_is_taken(policy, attention):
    model, ids = tiny("llama"), tokens(1, 30)
    model.set_attn_implementation(attention)
    caches = [BoundedCache(policy, config=model.config) for _ in range(2)]
    for start, stop in ((0, 20), (20, 21), (21, 30)):
        new = ids[:, start:stop]
        want = model(new, past_key_values=caches[0]).logits
        mask = made_for(model, caches[1], new)
        got = model(new, attention_mask=mask, past_key_values=caches[1]).logits
        assert difference(got, want) < 1e-5


@pytest.mark.parametrize("policy", POLICIES)
def test_a_mask_of_another_pass_is_refused(policy):
    model, ids = tiny("llama"), tokens(1, 30)
    cache = BoundedCache(policy, config=model.config)
    mask = made_for(model, cache, ids[:, :20])
    model(ids[:, :20], attention_mask=mask, past_key_values=cache)
    for other in (cache, BoundedCache(policy, config=model.config), DynamicCache()):
        with pytest.raises(CacheError, match="made for another forward pass"):
            model(ids[:, :20], attention_mask=mask, past_key_values=other)


def test_a_mask_of_four_dimensions_is_refused():
    model, ids = tiny("llama"), tokens(1, 12)
    mask = torch.ones(1, 1, 12, 12, dtype=torch.bool).tril()
    with pytest.raises(CacheError, match="2-D attention_mask"):
        model(ids, attention_mask=mask, past_key_values=BoundedCache("full", config=model.config))


@torch.no_grad()
def test_a_mask_made_under_a_pattern_is_taken():
    model, ids = tiny("llama"), tokens(1, 30)
    with use_pattern(model, "window:8"):
        want = model(ids, use_cache=False).logits
        mask = made_for(model, None, ids)
        assert difference(model(ids, attention_mask=mask, use_cache=False).logits, want) < 1e-5

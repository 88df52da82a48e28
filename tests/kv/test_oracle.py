"""The bounded cache, fed in any chunks, is one dense pass under the policy's mask."""

from __future__ import annotations

import re
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import flex_attention
from transformers import DynamicCache
from transformers.integrations import flex_attention as integration

from tests.helpers.models import (
    CONFIGS,
    chunked_logits,
    dense_logits,
    difference,
    left_padded,
    tiny,
    tokens,
)
from tests.helpers.policy_examples import bounded, that_decide_by
from tests.helpers.policy_strategies import policies
from transom.attention.huggingface import use_pattern
from transom.errors import UnsupportedModelError
from transom.kv import BoundedCache
from transom.policies import Chunked, Full, Policy, Sinks, Window

CLOSE = 1e-3  # of logits, in float32; what is reached is 4e-5 and, on SmolLM2, 2e-4
LENGTH = 80
POLICIES, BOUNDED = that_decide_by("position"), bounded()
CHUNKINGS = {
    "1": [1] * LENGTH,
    "7": [7] * 11 + [3],
    "64": [64, 16],
    "all": [LENGTH],
    "mixed": [1, 18, 1, 1, 2, 30, 1, 26],
}


@pytest.mark.parametrize(
    ("family", "policy"),
    [
        (family, policy)
        for family in CONFIGS
        for policy in POLICIES
        if family != "mistral-sliding" or policy.capacity  # refused, see test_cache.py
    ],
    ids=str,
)
def test_any_chunking_is_the_dense_pass(family: str, policy: Policy) -> None:
    model, ids = tiny(family), tokens(1, LENGTH)
    expected = dense_logits(model, ids, policy)
    for sizes in CHUNKINGS.values():
        cache = BoundedCache(policy, config=model.config)
        assert difference(chunked_logits(model, ids, cache, sizes), expected) < CLOSE


@pytest.mark.parametrize("policy", BOUNDED, ids=str)
def test_figure_reached(policy: Policy) -> None:
    model, ids = tiny("llama"), tokens(1, LENGTH)
    expected = dense_logits(model, ids, policy)
    cache = BoundedCache(policy, config=model.config)
    assert difference(chunked_logits(model, ids, cache, [1] * LENGTH), expected) < 1e-4


def test_the_policies_differ_from_each_other_and_from_absolute_positions() -> None:
    """So that the equalities above say something."""
    model, ids = tiny("llama"), tokens(1, LENGTH)
    unlike = [Full(), Window(20), Sinks(3, 17), Chunked(20, 6)]
    results = [dense_logits(model, ids, policy) for policy in unlike]
    results.append(dense_logits(model, ids, Sinks(3, 17), compact=False))
    for index, one in enumerate(results):
        for other in results[index + 1 :]:
            assert difference(one, other) > 0.1


@pytest.mark.parametrize("family", ["llama", "gpt-neox"])
def test_absolute_positions(family: str) -> None:
    model, ids = tiny(family), tokens(1, LENGTH)
    expected = dense_logits(model, ids, Sinks(3, 17), compact=False)
    for sizes in CHUNKINGS.values():
        cache = BoundedCache(Sinks(3, 17), config=model.config, positions="absolute")
        assert difference(chunked_logits(model, ids, cache, sizes), expected) < CLOSE


@pytest.mark.parametrize(
    "policy", [Full(), Window(LENGTH), Sinks(4, LENGTH - 4), Chunked(LENGTH, 16)], ids=str
)
@pytest.mark.parametrize("family", [name for name in CONFIGS if name != "mistral-sliding"])
def test_room_for_everything_is_a_dynamic_cache(family: str, policy: Policy) -> None:
    model, ids = tiny(family), tokens(2, LENGTH)
    for sizes in CHUNKINGS.values():
        theirs = chunked_logits(model, ids, DynamicCache(config=model.config), sizes)
        ours = chunked_logits(model, ids, BoundedCache(policy, config=model.config), sizes)
        assert difference(ours, theirs) < CLOSE


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "phi", "smollm3"])
def test_left_padded_rows_are_the_rows_alone(family: str, policy: Policy) -> None:
    model, ids = tiny(family), tokens(3, 50)
    mask = left_padded([50, 33, 6], 50)
    expected = dense_logits(model, ids, policy, mask)
    for sizes in ([50], [1] * 50, [7] * 7 + [1], [13, 1, 36]):
        cache = BoundedCache(policy, config=model.config)
        got = chunked_logits(model, ids, cache, sizes, mask)
        for row in range(3):
            real = mask[row].bool()
            assert difference(got[row, real], expected[row, real]) < CLOSE
    alone = dense_logits(model, ids[1:2, 17:], policy)
    assert difference(expected[1, 17:], alone[0]) < CLOSE


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_policy_any_padding_any_chunking(data: st.DataObject) -> None:
    """Also padding in the middle, as between the turns of a batch of conversations."""
    model = tiny("llama")
    length = data.draw(st.integers(1, 28))
    rows = data.draw(st.integers(1, 3))
    policy = data.draw(policies(most=20, precision=("auto",)))
    bits = data.draw(st.lists(st.booleans(), min_size=rows * length, max_size=rows * length))
    mask = torch.tensor(bits).reshape(rows, length).long()
    sizes = []
    while sum(sizes) < length:
        sizes.append(data.draw(st.integers(1, length - sum(sizes))))
    ids = tokens(rows, length)
    expected = dense_logits(model, ids, policy, mask)
    cache = BoundedCache(policy, config=model.config)
    got = chunked_logits(model, ids, cache, sizes, mask)
    real = mask.bool()
    if real.any():
        assert difference(got[real], expected[real]) < CLOSE
    assert cache.planner.lengths == mask.sum(1).tolist()


@pytest.mark.parametrize("policy", BOUNDED, ids=str)
def test_bfloat16_is_as_close_as_bfloat16_gets(policy: Policy) -> None:
    """On average no further from float32 than the same model with a DynamicCache, give or take."""
    exact, model, ids = tiny("llama"), tiny("llama").bfloat16(), tokens(1, LENGTH)
    dynamic = chunked_logits(model, ids, DynamicCache(config=model.config), [LENGTH])
    theirs = (dynamic - dense_logits(exact, ids, Full())).abs().mean()
    expected = dense_logits(exact, ids, policy)
    for sizes in CHUNKINGS.values():
        cache = BoundedCache(policy, config=model.config)
        got = chunked_logits(model, ids, cache, sizes)
        assert cache.layers[0].tensors["keys"].dtype == torch.bfloat16
        assert (got - expected).abs().mean() < 1.25 * theirs


@pytest.mark.parametrize("policy", BOUNDED, ids=str)
def test_rebasing_changes_nothing(policy: Policy) -> None:
    model, ids = tiny("llama"), tokens(1, LENGTH)
    expected = dense_logits(model, ids, policy)
    cache = BoundedCache(policy, config=model.config)
    logits = []
    with torch.no_grad():
        for start in range(0, LENGTH, 8):
            if start in (32, 56):
                cache.rebase(20)
            places = torch.arange(8)[None] + cache.next_position
            chunk = ids[:, start : start + 8]
            logits.append(model(chunk, past_key_values=cache, position_ids=places).logits)
    assert difference(torch.cat(logits, 1), expected) < CLOSE


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_eager_attention_too(policy: Policy) -> None:
    model, ids = tiny("llama"), tokens(2, LENGTH)
    mask = left_padded([LENGTH, 50], LENGTH)
    expected = dense_logits(model, ids, policy, mask)
    model.set_attn_implementation("eager")
    for sizes in (CHUNKINGS["mixed"], CHUNKINGS["1"]):
        cache = BoundedCache(policy, config=model.config)
        got = chunked_logits(model, ids, cache, sizes, mask)
        assert difference(got[mask.bool()], expected[mask.bool()]) < CLOSE


FLASH = ["flash_attention_2", "flash_attention_3", "kernels-community/flash-attn3"]


@pytest.mark.parametrize("name", [*FLASH, "paged|flash_attention_2"])
def test_attention_that_takes_no_mask_is_refused(name: str) -> None:
    model = tiny("llama")
    model.config._attn_implementation = name
    said = (
        rf"runs '{re.escape(name)}'.*sdpa, eager, flex_attention: call model\.set_attn_impl.*'sdpa'"
    )
    for policy in ("full", "window:8", "snapkv:24"):
        with pytest.raises(UnsupportedModelError, match=said):
            BoundedCache(policy, config=model.config)
    with pytest.raises(UnsupportedModelError, match=said), use_pattern(model, "window:8"):
        pass


@pytest.fixture
def flex(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model that runs flex attention, which is not compiled: that takes minutes on a CPU."""

    def uncompiled(q: Any, k: Any, v: Any, training: bool = False, **kwargs: Any) -> Any:
        return flex_attention(q, k, v, **kwargs)

    monkeypatch.setattr(integration, "compile_friendly_flex_attention", uncompiled)
    model = tiny("llama")
    model.set_attn_implementation("flex_attention")
    return model


@pytest.mark.parametrize("policy", [*bounded(), Full()], ids=str)
def test_flex_attention(flex: Any, policy: Policy) -> None:
    ids, mask = tokens(3, 50), left_padded([50, 33, 7], 50)
    expected = dense_logits(flex, ids, policy, mask)
    for sizes in ([50], [1] * 50, [20, 1, 1, 28]):
        cache = BoundedCache(policy, config=flex.config)
        got = chunked_logits(flex, ids, cache, sizes, mask)
        assert difference(got[mask.bool()], expected[mask.bool()]) < CLOSE


def test_flex_attention_runs_unchanged_without_a_bounded_cache(flex: Any) -> None:
    ids, plain = tokens(1, 30), tiny("llama")
    with torch.no_grad():
        before = flex(ids).logits
        BoundedCache("window:8", config=flex.config)
        assert flex.config._attn_implementation == "transom|flex_attention"
        assert torch.equal(flex(ids).logits, before)
        theirs = chunked_logits(flex, ids, DynamicCache(config=flex.config), [20, 1, 9])
        assert difference(theirs, before) < CLOSE
        patterned = []
        for model in (flex, plain):
            with use_pattern(model, "sinks:3,window=9"):
                patterned.append(model(ids).logits)
    assert difference(*patterned) < CLOSE


def test_other_caches_and_none_still_work_with_the_model() -> None:
    model, ids = tiny("llama"), tokens(2, 30)
    mask = left_padded([30, 20], 30)
    with torch.no_grad():
        before = model(ids, attention_mask=mask).logits
        BoundedCache(Window(8), config=model.config)
        assert model.config._attn_implementation == "transom|sdpa"
        assert torch.equal(model(ids, attention_mask=mask).logits, before)
        assert torch.equal(model(ids, attention_mask=mask, use_cache=False).logits, before)


@pytest.mark.model
@pytest.mark.parametrize("policy", [Window(48), Sinks(4, 44), Chunked(48, 16)], ids=str)
def test_on_the_real_model(smollm2: Any, policy: Policy) -> None:
    # Prose, not a repeated sentence: that makes the model itself ill-conditioned, so that float32
    # is 2e-3 off float64 even without a cache.
    ids = torch.tensor([smollm2.tokenizer(topics["exceptions"]).input_ids[:120]])
    expected = dense_logits(smollm2.model, ids, policy)
    for sizes in ([120], [7] * 17 + [1], [1] * 120, [64, 56]):
        cache = BoundedCache(policy, config=smollm2.model.config)
        assert difference(chunked_logits(smollm2.model, ids, cache, sizes), expected) < CLOSE

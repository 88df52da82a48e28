"""Patterns in real models; the reference is the same model with the pattern as a full mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

from tests.helpers.models import chunked_logits, difference, tiny, tokens
from transom import BoundedCache, Chunked, Context, Sinks, Window
from transom.attention.huggingface import use_pattern
from transom.attention.patterns import (
    Pattern,
    causal,
    dilated,
    global_tokens,
    head_groups,
    pattern,
    random_blocks,
    sinks,
    sliding,
)
from transom.errors import CacheError, InputError, UnsupportedModelError

LENGTH = 90
CLOSE = 1e-4
PATTERNS: list[Pattern] = [
    sliding(20) | sinks(3),
    sliding(8) | dilated(9, 4) | global_tokens(2),
    sliding(12) | random_blocks(2, block=8),
    pattern(Sinks(3, 17)),
]
KEPT: dict[Any, dict[str, Any]] = {BoundedCache: {"policy": "window:20"}}
FAMILIES = ["llama", "qwen3", "mistral", "gemma3", "gpt-neox", "smollm3"]


def stock(model: Any, ids: Tensor, visible: Tensor) -> Tensor:
    """Logits of the model as it is under a full mask, `(batch, 1 or heads, q_len, kv_len)`."""
    mask = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
    with torch.no_grad():
        logits: Tensor = model(ids, attention_mask=mask, use_cache=False).logits
    return logits


@pytest.mark.parametrize("some", PATTERNS, ids=repr)
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt-neox", "smollm3"])
def test_a_model_follows_the_pattern(family: str, some: Pattern) -> None:
    model, ids = tiny(family), tokens(2, LENGTH)
    expected = stock(model, ids, (causal() & some).mask(LENGTH))
    before = model.config._attn_implementation
    with use_pattern(model, some) as same:
        assert same is model
        with torch.no_grad():
            assert difference(model(ids).logits, expected) < CLOSE
        assert (
            difference(chunked_logits(model, ids, DynamicCache(), [7, 60, 1, 1, 21]), expected)
            < CLOSE
        )
    assert model.config._attn_implementation == before
    with torch.no_grad():
        assert difference(model(ids).logits, expected) > 0.01


def test_heads_may_differ() -> None:
    model, ids = tiny("llama"), tokens(1, LENGTH)
    heads = model.config.num_attention_heads
    some = head_groups([causal(), sliding(9) | sinks(2)], [h % 2 for h in range(heads)])
    expected = stock(model, ids, some.mask(LENGTH, heads=heads))
    with use_pattern(model, some):
        cache = DynamicCache()
        assert difference(chunked_logits(model, ids, cache, [50, 1, 39]), expected) < CLOSE
        bounded = BoundedCache(Window(LENGTH), config=model.config)
        assert difference(chunked_logits(model, ids, bounded, [50, 1, 39]), expected) < CLOSE


@pytest.mark.parametrize("policy", [Window(25), Chunked(30, 7), Sinks(3, 20)], ids=str)
@pytest.mark.parametrize("some", PATTERNS[1:3], ids=repr)
def test_a_bounded_cache_and_a_pattern_together(policy: Any, some: Pattern) -> None:
    model, ids = tiny("llama"), tokens(2, LENGTH)
    expected = stock(model, ids, (pattern(policy) & some).mask(LENGTH))
    for sizes in ([LENGTH], [40, 1, 1, 33, 15], [1] * LENGTH):
        with use_pattern(model, some):
            cache = BoundedCache(policy, config=model.config, positions="absolute")
            assert difference(chunked_logits(model, ids, cache, sizes), expected) < CLOSE
    assert cache.kept <= policy.capacity


@pytest.mark.parametrize("bounded", [False, True])
def test_no_token_sees_padding(bounded: bool) -> None:
    model, ids = tiny("llama"), tokens(2, LENGTH)
    some = sliding(12) | sinks(3)
    real = torch.ones(2, LENGTH, dtype=torch.int64)
    real[0, :31] = 0
    with use_pattern(model, some), torch.no_grad():
        alone = model(ids[:1, 31:]).logits
        cache = BoundedCache(Window(LENGTH), config=model.config) if bounded else DynamicCache()
        positions = (real.cumsum(1) - 1).clamp(min=0)
        both = model(ids, attention_mask=real, position_ids=positions, past_key_values=cache).logits
    # In a bounded cache, positions count the tokens of a row; in other caches, its columns.
    expected = alone if bounded else stock_padded(model, ids, real, some)
    assert difference(both[:1, 31:], expected) < CLOSE
    assert not both.isnan().any()


def stock_padded(model: Any, ids: Tensor, real: Tensor, some: Pattern) -> Tensor:
    visible = (causal() & some).mask(LENGTH)[:, :, 31:, 31:]
    return stock(model, ids[:1, 31:], visible)


@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_a_models_own_windows_still_count(family: str) -> None:
    model, ids = tiny(family), tokens(1, LENGTH)
    with torch.no_grad():
        expected = model(ids).logits
    with use_pattern(model, causal()), torch.no_grad():
        assert difference(model(ids).logits, expected) < CLOSE
        narrow = model(ids).logits
    with use_pattern(model, "window:4"), torch.no_grad():
        assert difference(model(ids).logits, narrow) > 0.01
        whole = model(ids).logits
        cache = DynamicCache(config=model.config)
        assert difference(chunked_logits(model, ids, cache, [30, 1, 59]), whole) < CLOSE


def test_gradients_are_those_under_the_full_mask() -> None:
    some, ids = sliding(20) | sinks(3), tokens(1, LENGTH)
    gradients = []
    for follow in (True, False):
        model = tiny("llama").train()
        if follow:
            with use_pattern(model, some):
                model(ids, labels=ids).loss.backward()
        else:
            visible = (causal() & some).mask(LENGTH)
            mask = torch.zeros(visible.shape).masked_fill(~visible, -1e30)
            model(ids, attention_mask=mask, labels=ids).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-3)


def test_generation_follows_the_pattern() -> None:
    model, ids = tiny("llama"), tokens(1, 40)
    some = sliding(10) | sinks(3)
    with use_pattern(model, some):
        made = model.generate(ids, max_new_tokens=8, do_sample=False)
        for stop in range(40, 48):
            assert model(made[:, :stop]).logits[0, -1].argmax() == made[0, stop]


def test_the_inner_pattern_counts_and_both_are_undone_after_an_error() -> None:
    model, ids = tiny("llama"), tokens(1, 30)
    inner = stock(model, ids, sliding(4).mask(30))

    def fail() -> None:
        with use_pattern(model, "window:9"), use_pattern(model, sliding(4)):
            with torch.no_grad():
                assert difference(model(ids).logits, inner) < CLOSE
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert model.config._attn_implementation == "sdpa"


def test_what_cannot_follow_a_pattern_is_refused() -> None:
    model, ids = tiny("llama"), tokens(1, 30)
    with use_pattern(model, sliding(4)):
        positions = torch.cat([torch.arange(10), torch.arange(20)])[None]
        with pytest.raises(CacheError, match="packed sequences"):
            model(ids, position_ids=positions, use_cache=False)
        cache = StaticCache(config=model.config, max_cache_len=64)
        with pytest.raises(CacheError, match="without empty slots"):
            model(ids, past_key_values=cache)
        context = Context(model, policy="sinks:4,window=20", compile=True)
        context.append(ids[0])
        with pytest.raises(UnsupportedModelError, match="compiled steps do not follow a pattern"):
            context.append(ids[0, :1])
    model.config._attn_implementation = "flash_attention_2"
    with (
        pytest.raises(UnsupportedModelError, match="needs one of sdpa, eager"),
        use_pattern(model, sliding(4)),
    ):
        pass


@pytest.mark.parametrize("own", [None, DynamicCache, BoundedCache])
def test_a_mask_that_was_made_elsewhere_is_refused(own: Any) -> None:
    """The layers get such a mask as it is, so they would not follow the pattern."""
    model, ids = tiny("llama"), tokens(1, 12)
    mask = torch.ones(12, 12).tril()[None, None].bool()
    with use_pattern(model, sliding(4)):
        cache = None if own is None else own(config=model.config, **KEPT.get(own, {}))
        with pytest.raises(CacheError, match="2-D attention_mask"):
            model(ids, attention_mask=mask, past_key_values=cache)
        for shape in ((12,), (1, 12, 12), (1, 11)):
            with pytest.raises(InputError, match="attention_mask is"):
                model(ids, attention_mask=torch.ones(shape), use_cache=False)

"""What a bounded cache holds, refuses and survives."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import GPT2Config

from tests.helpers.models import (
    CONFIGS,
    chunked_logits,
    dense_logits,
    difference,
    tiny,
    tokens,
)
from tests.helpers.policy_examples import bounded
from transom.errors import CacheError, InputError, PolicyError, UnsupportedModelError
from transom.kv import BoundedCache
from transom.policies import Full, ModelShape, Policy, Sinks, Window, kv_bytes_bound


@pytest.mark.parametrize("policy", bounded(), ids=str)
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt-neox"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bytes_are_the_policys_figure_from_the_first_token_on(
    family: str, policy: Policy, dtype: torch.dtype
) -> None:
    model, ids = tiny(family).to(dtype), tokens(2, 60)
    shape = ModelShape.from_config(model.config, itemsize=dtype.itemsize)
    bound = kv_bytes_bound(policy, shape, batch=2)
    cache = BoundedCache(policy, config=model.config)
    assert cache.nbytes == 0
    for sizes in ([1], [3], [50], [1] * 6):
        chunked_logits(model, ids, cache, sizes)
        assert cache.nbytes == bound
        tensors = [x for layer in cache.layers for x in layer.tensors.values()]
        allocated = sum(x.untyped_storage().nbytes() for x in tensors)
        assert allocated == bound


def test_full_grows_in_blocks() -> None:
    model, ids = tiny("llama"), tokens(1, 60)
    cache = BoundedCache(Full(), config=model.config)
    chunked_logits(model, ids, cache, [60])
    assert cache.nbytes == 1024 * ModelShape.from_config(model.config).token_bytes
    assert (cache.seen, cache.kept, cache.dropped) == (60, 60, 0)


@pytest.mark.parametrize("policy", bounded(), ids=str)
def test_storage_keeps_its_addresses(policy: Policy) -> None:
    model, ids = tiny("llama"), tokens(2, 60)
    cache = BoundedCache(policy, config=model.config)
    chunked_logits(model, ids, cache, [2])

    def addresses() -> list[int]:
        return [x.data_ptr() for layer in cache.layers for x in layer.tensors.values()]

    before = addresses()
    chunked_logits(model, ids, cache, [40, 1, 1])
    cache.reorder_cache(torch.tensor([1, 0]))
    cache.reset()
    chunked_logits(model, ids, cache, [30])
    assert addresses() == before


def test_counts() -> None:
    model, ids = tiny("llama"), tokens(1, 60)
    cache = BoundedCache(Sinks(3, 17), config=model.config)
    assert (cache.seen, cache.kept, cache.dropped) == (0, 0, 0)
    chunked_logits(model, ids, cache, [60])
    assert (cache.seen, cache.kept, cache.dropped) == (60, 20, 40)
    assert (cache.next_position, cache.positions) == (60, "compact")
    cache.rebase(30)
    assert (cache.seen, cache.next_position) == (60, 30)
    assert (
        repr(cache) == f"BoundedCache('sinks:3,window=17', seen=60, kept=20, nbytes={cache.nbytes})"
    )


@pytest.mark.parametrize("policy", [*bounded(), Full()], ids=str)
def test_reset_is_a_new_cache(policy: Policy) -> None:
    model, ids = tiny("llama"), tokens(2, 40)
    cache = BoundedCache(policy, config=model.config)
    first = chunked_logits(model, ids, cache, [20, 1, 19])
    cache.reset()
    assert torch.equal(chunked_logits(model, ids, cache, [20, 1, 19]), first)
    cache.reset()
    one = chunked_logits(model, ids[:1], cache, [40])
    assert difference(one, first[:1]) < 1e-3


@pytest.mark.parametrize("policy", [*bounded(), Full()], ids=str)
def test_rows_can_be_repeated_reordered_and_selected(policy: Policy) -> None:
    model, ids = tiny("llama"), tokens(2, 50)
    expected = dense_logits(model, ids, policy)
    cache = BoundedCache(policy, config=model.config)
    chunked_logits(model, ids, cache, [30])
    cache.batch_repeat_interleave(2)
    rows = [0, 0, 1, 1]
    cache.reorder_cache(torch.tensor([3, 0, 2, 1]))
    rows = [rows[i] for i in (3, 0, 2, 1)]
    got = chunked_logits(model, ids[rows], cache, [1, 4])
    assert difference(got, expected[rows, 30:35]) < 1e-3
    cache.batch_select_indices(torch.tensor([True, False, False, True]))
    rows = [rows[0], rows[3]]
    got = chunked_logits(model, ids[rows], cache, [7, 1])
    assert difference(got, expected[rows, 35:43]) < 1e-3
    assert cache.batch_size == 2


@pytest.mark.parametrize("policy", bounded(), ids=str)
def test_a_deep_copy_goes_its_own_way(policy: Policy) -> None:
    model, ids, other = tiny("llama"), tokens(1, 50), tokens(1, 50, seed=9)
    expected = dense_logits(model, ids, policy)
    cache = BoundedCache(policy, config=model.config)
    chunked_logits(model, ids, cache, [30])
    twin = copy.deepcopy(cache)
    chunked_logits(model, other, twin, [15])
    assert difference(chunked_logits(model, ids, cache, [1, 19]), expected[:, 30:]) < 1e-3


@pytest.mark.parametrize("policy", [*bounded(), Full()], ids=str)
def test_crop_is_exact_while_nothing_was_evicted(policy: Policy) -> None:
    model, ids, wrong = tiny("llama"), tokens(1, 40), tokens(1, 40, seed=9)
    expected = dense_logits(model, ids, policy)
    cache = BoundedCache(policy, config=model.config)
    chunked_logits(model, ids, cache, [12])
    chunked_logits(model, wrong, cache, [8])
    cache.crop(-8)
    assert cache.seen == 12
    assert difference(chunked_logits(model, ids, cache, [1, 27]), expected[:, 12:]) < 1e-3


@pytest.mark.parametrize("policy", bounded(), ids=str)
def test_crop_refuses_where_it_would_be_wrong(policy: Policy) -> None:
    model, ids = tiny("llama"), tokens(1, 40)
    cache = BoundedCache(policy, config=model.config)
    chunked_logits(model, ids, cache, [21])
    cache.crop(0)
    with pytest.raises(CacheError, match="cannot come back"):
        cache.crop(-1)
    with pytest.raises(CacheError, match="expected a negative number"):
        cache.crop(5)
    assert cache.seen == 21
    assert not cache.is_croppable
    assert BoundedCache(Full(), config=model.config).is_croppable


def test_an_interrupted_pass_is_noticed() -> None:
    model, ids = tiny("llama"), tokens(1, 30)
    cache = BoundedCache(Window(8), config=model.config)
    chunked_logits(model, ids, cache, [10])

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    hook = model.model.layers[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        chunked_logits(model, ids, cache, [10])
    hook.remove()
    with pytest.raises(CacheError, match="stopped half-way"):
        chunked_logits(model, ids, cache, [10])
    cache.reset()
    expected = dense_logits(model, ids, Window(8))
    assert difference(chunked_logits(model, ids, cache, [30]), expected) < 1e-3


def test_a_model_that_ignores_the_policy_is_noticed() -> None:
    model = tiny("llama")
    cache = BoundedCache(Window(8), config=copy.deepcopy(model.config))
    with pytest.raises(CacheError, match=r"config=model\.config"):
        model(tokens(1, 20), past_key_values=cache)


def test_another_batch_size_is_refused() -> None:
    model = tiny("llama")
    cache = BoundedCache(Window(8), config=model.config)
    model(tokens(2, 5), past_key_values=cache)
    with pytest.raises(CacheError, match=r"batch of 2.*given 4"):
        model(tokens(4, 5), past_key_values=cache)


def test_a_mask_of_the_new_tokens_only_is_refused() -> None:
    model = tiny("llama")
    cache = BoundedCache(Window(8), config=model.config)
    model(tokens(1, 5), past_key_values=cache)
    with pytest.raises(InputError, match=r"\(1, 3\); expected \(1, 8\)"):
        model(tokens(1, 3), past_key_values=cache, attention_mask=torch.ones(1, 3))


def test_dropout_is_refused() -> None:
    model = tiny("llama", attention_dropout=0.5).train()
    with pytest.raises(CacheError, match="dropout"), torch.no_grad():
        model(tokens(1, 5), past_key_values=BoundedCache(Window(8), config=model.config))


def test_positions_that_cannot_slide_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="no rotary positions"):
        BoundedCache(Sinks(4, 12), config=GPT2Config(n_layer=2))


def test_a_model_that_slides_throughout_takes_only_smaller_policies() -> None:
    config = CONFIGS["mistral-sliding"]
    BoundedCache(Window(40), config=config)
    with pytest.raises(UnsupportedModelError, match="already slides over 40 tokens"):
        BoundedCache(Window(41), config=config)


def test_hybrid_models_keep_their_own_linear_layers() -> None:
    model = tiny("lfm2")
    cache = BoundedCache(Window(12), config=model.config)
    kinds = [type(layer).__name__ for layer in cache.layers]
    assert kinds == ["LinearAttentionLayer", "BoundedLayer", "BoundedLayer"]
    assert cache.nbytes == 0
    chunked_logits(model, tokens(1, 20), cache, [20])
    state = cache.layers[0].conv_states[0]
    bounded = kv_bytes_bound(Window(12), ModelShape.from_config(model.config))
    assert bounded is not None
    assert cache.nbytes == bounded + state.untyped_storage().nbytes() > bounded


def test_hybrid_models_keep_their_own_sliding_layers() -> None:
    model = tiny("gemma3")
    cache = BoundedCache(Window(12), config=model.config)
    kinds = [type(layer).__name__ for layer in cache.layers]
    assert kinds == ["DynamicSlidingWindowLayer", "BoundedLayer", "BoundedLayer"]
    assert not cache.is_bounded_throughout
    with pytest.raises(CacheError, match="every layer"):
        cache.rebase(5)


def test_rebasing_before_the_cache_is_full_is_refused() -> None:
    model = tiny("llama")
    cache = BoundedCache(Window(12), config=model.config)
    chunked_logits(model, tokens(1, 11), cache, [11])
    with pytest.raises(CacheError, match="has seen 11"):
        cache.rebase(5)


def test_unknown_positions() -> None:
    with pytest.raises(PolicyError, match="'compact' or 'absolute'"):
        BoundedCache(Window(8), config=CONFIGS["llama"], positions="relative")  # type: ignore[arg-type]

"""`OptimizedAttention` over a bounded cache: any chunks are one dense pass under the policy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig, MistralConfig, SmolLM3Config

from tests.helpers.positional_reference import reference_attention
from transom.attention.optimized.cached import KeptKeys
from transom.attention.optimized.module import OptimizedAttention
from transom.attention.patterns import causal, sliding
from transom.attention.rotary import Rotary
from transom.errors import CacheError, InputError
from transom.kv import BoundedCache
from transom.policies import Chunked, Full, Hierarchical, Policy, Sinks, Window, parse

CLOSE = 5e-5
LENGTH = 40
POLICIES = [Full(), Window(10), Sinks(3, 9), Chunked(10, 4), Hierarchical(3, 8)]
CHUNKINGS = [[1] * LENGTH, [LENGTH], [7] * 5 + [5], [17, 1, 1, 2, 18, 1], [5, *[1] * 35]]


def config(**changes: Any) -> Any:
    sizes = {"hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6}
    return LlamaConfig(**{**sizes, "num_hidden_layers": 1, "vocab_size": 9, **changes})


def layers(count: int = 1, **settings: Any) -> list[OptimizedAttention]:
    torch.manual_seed(3)
    made = {"num_heads": 4, "num_kv_heads": 2, "rotary": True, **settings}
    return [OptimizedAttention(24, layer_idx=index, **made).eval() for index in range(count)]


def tokens(batch: int, seq: int) -> Tensor:
    return 2 * torch.randn(batch, seq, 24, generator=torch.Generator().manual_seed(seq))


def dense(
    module: OptimizedAttention,
    x: Tensor,
    policy: Policy,
    mask: Tensor | None = None,
    compact: bool = True,
) -> Tensor:
    """One pass of the reference over all tokens, with this module's weights."""
    made = (p(x).unflatten(2, (-1, 6)) for p in (module.q_proj, module.k_proj, module.v_proj))
    q, k, v = (y.transpose(1, 2) for y in made)
    valid = None if mask is None else mask.bool()
    heads = reference_attention(
        q, k, v, policy, module.rotary, valid=valid, compact=compact, scaling=module.scale
    )
    return module.o_proj(heads.transpose(1, 2).flatten(2))


def fed(
    module: OptimizedAttention, x: Tensor, cache: Any, sizes: list[int], mask: Any = None
) -> Tensor:
    outputs, start = [], cache.seen
    with torch.no_grad():
        for size in sizes:
            stop = start + size
            seen = None if mask is None else mask[..., :stop]
            outputs.append(module(x[:, start:stop], mask=seen, cache=cache))
            start = stop
    return torch.cat(outputs, dim=1)


def far(one: Tensor, two: Tensor) -> float:
    assert one.isfinite().all()
    return float((one - two).detach().abs().max())


def padded(lengths: list[int], total: int) -> Tensor:
    return torch.stack([(torch.arange(total) >= total - length).long() for length in lengths])


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_any_chunks_are_one_dense_pass(policy: Policy, batch: int) -> None:
    (module,), x = layers(), tokens(batch, LENGTH)
    expected = dense(module, x, policy)
    for sizes in CHUNKINGS:
        cache = BoundedCache(policy, config=config())
        assert far(fed(module, x, cache, sizes), expected) < CLOSE
        assert cache.seen == LENGTH


def test_the_policies_differ() -> None:
    """So that the equalities above say something."""
    (module,), x = layers(), tokens(1, LENGTH)
    outputs = [dense(module, x, policy) for policy in POLICIES]
    outputs.append(dense(module, x, Sinks(3, 9), compact=False))
    for index, one in enumerate(outputs):
        for other in outputs[index + 1 :]:
            assert far(one, other) > 0.01


@pytest.mark.parametrize("policy", [Full(), Window(10)], ids=str)
def test_with_nothing_pinned_it_is_the_pattern_without_a_cache(policy: Policy) -> None:
    (module,), (masked,) = layers(), layers(pattern=policy)
    x = tokens(2, LENGTH)
    cache = BoundedCache(policy, config=config())
    assert far(fed(module, x, cache, [16, 1, 23]), masked(x)) < CLOSE


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("sizes", [[30], [1] * 30, [11, 1, 1, 17]], ids=str)
def test_padded_rows(policy: Policy, sizes: list[int]) -> None:
    (module,), x = layers(), tokens(3, 30)
    mask = padded([30, 21, 4], 30)
    mask[0, 12:16] = 0  # and some in the middle
    expected, real = dense(module, x, policy, mask), mask.bool()
    got = fed(module, x, BoundedCache(policy, config=config()), sizes, mask)
    assert got.isfinite().all()
    assert far(got[real], expected[real]) < CLOSE
    alone = dense(module, x[1:2, 9:], policy)
    assert far(got[1, 9:], alone[0]) < CLOSE


def test_one_mask_for_all_rows() -> None:
    (module,), x = layers(), tokens(2, 20)
    mask = padded([13], 20)
    expected = dense(module, x, Window(6), mask.expand(2, -1))
    for form in (mask[0], mask, mask.bool().expand(2, -1)):
        cache = BoundedCache(Window(6), config=config())
        assert far(fed(module, x, cache, [9, 1, 10], form)[:, 7:], expected[:, 7:]) < CLOSE


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_policy_any_padding_any_chunks(data: st.DataObject) -> None:
    (module,) = layers()
    length, rows = data.draw(st.integers(1, 24)), data.draw(st.integers(1, 3))
    policy: Policy = data.draw(
        st.one_of(
            st.just(Full()),
            st.builds(Window, st.integers(1, 26)),
            st.builds(Sinks, st.integers(1, 5), st.integers(1, 15)),
        )
    )
    bits = data.draw(st.lists(st.booleans(), min_size=rows * length, max_size=rows * length))
    mask, sizes = torch.tensor(bits).view(rows, length), []
    while sum(sizes) < length:
        sizes.append(data.draw(st.integers(1, length - sum(sizes))))
    x = tokens(rows, length)
    cache = BoundedCache(policy, config=config())
    got, expected = fed(module, x, cache, sizes, mask), dense(module, x, policy, mask)
    assert got.isfinite().all()
    assert not mask.any() or far(got[mask], expected[mask]) < CLOSE
    assert cache.planner.lengths == mask.sum(1).tolist()


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_several_layers_share_a_cache(policy: Policy) -> None:
    stack, x = layers(3), tokens(2, 30)
    mask = padded([30, 19], 30)
    expected = x
    for module in stack:
        expected = dense(module, expected, policy, mask)
    cache, start, outputs = BoundedCache(policy, config=config(num_hidden_layers=3)), 0, []
    with torch.no_grad():
        for size in (12, 1, 1, 16):
            y = x[:, start : start + size]
            for module in stack:
                y = module(y, mask=mask[:, : start + size], cache=cache)
            outputs.append(y)
            start += size
    real = mask.bool()
    assert far(torch.cat(outputs, dim=1)[real], expected[real]) < CLOSE


@pytest.mark.parametrize(
    "text", ["snapkv:16", "tova:12", "hierarchical:8,global=90,recall=blocks,block=4,blocks=1"]
)
def test_heads_that_see_other_tokens(text: str) -> None:
    """However the text is cut, and padded or not."""
    stack, x = layers(2), tokens(2, LENGTH)
    mask = padded([LENGTH, LENGTH - 9], LENGTH)
    found = []
    for cuts in CHUNKINGS:
        cache, outputs = BoundedCache(parse(text), config=config(num_hidden_layers=2)), []
        with torch.no_grad():
            for y in x.split(cuts, dim=1):
                for module in stack:
                    y = module(y, mask=mask[:, : cache.seen + y.shape[1]], cache=cache)
                outputs.append(y)
        found.append(torch.cat(outputs, dim=1)[mask.bool()])
    assert all(far(one, found[0]) < CLOSE for one in found[1:])
    first = stack[0](x[:, :8])  # nothing has left yet
    cache = BoundedCache(parse(text), config=config())
    assert far(stack[0](x[:, :8], cache=cache), first) < CLOSE


def test_the_layer_can_be_named_in_the_call() -> None:
    (module,), x = layers(), tokens(1, 20)
    cache = BoundedCache(Window(6), config=config(num_hidden_layers=2))
    expected = dense(module, dense(module, x, Window(6)), Window(6))
    with torch.no_grad():
        y = module(module(x, cache=cache), cache=cache, layer_idx=1)
    assert far(y, expected) < CLOSE


@pytest.mark.parametrize("policy", [Window(10), Sinks(3, 9)], ids=str)
def test_layers_without_rotary_among_others(policy: Policy) -> None:
    sizes = config(num_hidden_layers=2).to_dict()
    made = SmolLM3Config(**{**sizes, "model_type": "smollm3", "no_rope_layers": [1, 0]})
    with_rope, without_rope, x = layers()[0], layers(rotary=False)[0], tokens(1, LENGTH)
    expected = dense(without_rope, dense(with_rope, x, policy), policy)
    cache, outputs = BoundedCache(policy, config=made), []
    with torch.no_grad():
        for part in x.split([14, 1, 1, 24], dim=1):
            outputs.append(without_rope(with_rope(part, cache=cache), cache=cache, layer_idx=1))
    assert far(torch.cat(outputs, dim=1), expected) < CLOSE


def test_absolute_positions() -> None:
    (module,), x = layers(), tokens(1, LENGTH)
    expected = dense(module, x, Sinks(3, 9), compact=False)
    for sizes in CHUNKINGS:
        cache = BoundedCache(Sinks(3, 9), config=config(), positions="absolute")
        assert far(fed(module, x, cache, sizes), expected) < CLOSE


@pytest.mark.parametrize("policy", [Window(10), Sinks(3, 9)], ids=str)
def test_rebase(policy: Policy) -> None:
    (module,), x = layers(), tokens(1, LENGTH)
    expected = dense(module, x, policy)
    cache = BoundedCache(policy, config=config())
    got = [fed(module, x, cache, [15, 1])]
    cache.rebase(12)
    got.append(fed(module, x, cache, [1, 13, 1, 9]))
    assert far(torch.cat(got, dim=1), expected) < CLOSE


def test_scale_and_no_rotary() -> None:
    (module,), x = layers(rotary=False, scale=0.7), tokens(1, LENGTH)
    expected = dense(module, x, Full())
    for sizes in CHUNKINGS:
        assert far(fed(module, x, BoundedCache(Full(), config=config()), sizes), expected) < CLOSE


def test_reset_is_a_new_cache() -> None:
    (module,), x = layers(), tokens(1, 20)
    cache = BoundedCache(Sinks(2, 5), config=config())
    first = fed(module, x, cache, [12, 1, 7])
    cache.reset()
    assert torch.equal(fed(module, x, cache, [12, 1, 7]), first)


def test_memory_is_the_policys() -> None:
    (module,), x = layers(), tokens(1, LENGTH)
    cache: KeptKeys = BoundedCache(Sinks(3, 9), config=config())
    fed(module, x, cache, [LENGTH])
    assert cache.layers[0].tensors["keys"].shape == (1, 2, 12, 6)


# What is refused


@pytest.mark.parametrize(
    "settings",
    [
        {"pattern": causal()},
        {"streaming_heads": [True] * 4, "streaming_pattern": sliding(3)},
    ],
    ids=str,
)
def test_a_pattern_and_a_cache(settings: dict[str, Any]) -> None:
    (module,) = layers(**settings)
    with pytest.raises(CacheError, match=r"whose policy says what is visible"):
        module(tokens(1, 5), cache=BoundedCache(Window(4), config=config()))


def test_positions_and_a_cache() -> None:
    cache = BoundedCache(Window(4), config=config())
    with pytest.raises(InputError, match="positions were given with a cache"):
        layers()[0](tokens(1, 5), cache=cache, positions=torch.arange(5))
    assert cache.seen == 0


def test_dropout_and_a_cache() -> None:
    (module,) = layers(dropout=0.1)
    cache = BoundedCache(Window(4), config=config())
    with pytest.raises(CacheError, match=r"dropout is on.*eval"):
        module.train()(tokens(1, 5), cache=cache)
    assert far(fed(module.eval(), tokens(1, 5), cache, [5]), layers()[0](tokens(1, 5))) > 0


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(1, 3).bool(), r"shape \(1, 3\); expected \(8,\) or \(1, 8\)"),
        (torch.ones(1, 1, 3, 8).bool(), r"shape \(1, 1, 3, 8\); expected \(8,\) or \(1, 8\)"),
        (torch.ones(1, 8), r"dtype torch.float32"),
    ],
    ids=str,
)
def test_masks_that_do_not_fit(mask: Tensor, message: str) -> None:
    (module,), cache = layers(), BoundedCache(Window(4), config=config())
    fed(module, tokens(1, 5), cache, [5])
    with pytest.raises(InputError, match=message):
        module(tokens(1, 3), mask=mask, cache=cache)


@pytest.mark.parametrize("index", [1, -1])
def test_a_layer_that_the_cache_does_not_have(index: int) -> None:
    with pytest.raises(CacheError, match=rf"layer_idx is {index}; .* to the layers \[0\]"):
        layers()[0](tokens(1, 5), cache=BoundedCache(Window(4), config=config()), layer_idx=index)


def test_layers_that_slide_of_themselves_are_bounded_too() -> None:
    slides = MistralConfig(
        hidden_size=24,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        num_hidden_layers=1,
        vocab_size=9,
        sliding_window=8,
    )
    cache = BoundedCache(Window(4), config=slides)
    (module,), x = layers(), tokens(1, 20)
    assert far(fed(module, x, cache, [9, 1, 10]), dense(module, x, Window(4))) < CLOSE


def test_layers_out_of_order() -> None:
    one, two = layers(2)
    cache = BoundedCache(Window(4), config=config(num_hidden_layers=2))
    x = tokens(1, 5)
    with torch.no_grad():
        with pytest.raises(
            CacheError, match=r"layer 1 was called with 5 tokens.*\[0, 1\] in order"
        ):
            two(x, cache=cache)
        one(x, cache=cache)
        with pytest.raises(CacheError, match="layer 1 was called with 4 tokens"):
            two(x[:, :4], cache=cache)
        with pytest.raises(CacheError, match="stopped half-way"):
            one(x, cache=cache)
        two(x, cache=cache)
        assert cache.seen == 5


def test_a_layer_after_one_that_failed() -> None:
    one, two = layers(2)
    cache, x = BoundedCache(Window(4), config=config(num_hidden_layers=2)), tokens(1, 5)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    hook = one.q_proj.register_forward_pre_hook(interrupt)
    with torch.no_grad():
        with pytest.raises(KeyboardInterrupt):
            one(x, cache=cache)
        with pytest.raises(CacheError, match="no pass of that many is under way"):
            two(x, cache=cache)
        hook.remove()
        expected = dense(two, dense(one, x, Window(4)), Window(4))
        assert far(two(one(x, cache=cache), cache=cache), expected) < CLOSE


@pytest.mark.parametrize(
    "settings",
    [
        {"rotary": False},
        {"rope_theta": 5e5},
        {"rotary": Rotary(torch.ones(2).double())},
        {"rotary": Rotary(Rotary.from_config(config()).inv_freq, interleaved=True)},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_other_rotary_positions_than_the_caches(settings: dict[str, Any]) -> None:
    (module,) = layers(**settings)
    with pytest.raises(CacheError, match="rotates keys differently from the layer"):
        module(tokens(1, 5), cache=BoundedCache(Sinks(1, 3), config=config()))


def test_other_heads_than_the_caches() -> None:
    (module,) = layers(head_dim=8)
    with pytest.raises(CacheError, match="heads of 6 dimensions and the layer has 8"):
        module(tokens(1, 5), cache=BoundedCache(Sinks(1, 3), config=config()))


def test_another_batch() -> None:
    (module,), cache = layers(), BoundedCache(Window(4), config=config())
    fed(module, tokens(2, 5), cache, [5])
    with pytest.raises(CacheError, match=r"batch of 2.*given 3"):
        module(tokens(3, 5), cache=cache)


@pytest.mark.slow
@pytest.mark.parametrize("policy", [Window(10), Sinks(3, 9)], ids=str)
def test_compiled(policy: Policy) -> None:
    torch._dynamo.reset()
    (module,), x = layers(), tokens(2, LENGTH)
    compiled: Any = torch.compile(module)
    mask = padded([LENGTH, 29], LENGTH)
    expected, real = dense(module, x, policy, mask), mask.bool()
    got = fed(compiled, x, BoundedCache(policy, config=config()), [16, 1, 1, 4, *[1] * 18], mask)
    assert far(got[real], expected[real]) < CLOSE

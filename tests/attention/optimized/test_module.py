"""`OptimizedAttention` against the slow computation, for every pattern and setting."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.attention_modules import close, expected, made, real_rows, tokens
from transom.attention.optimized.module import OptimizedAttention
from transom.attention.patterns import (
    Pattern,
    causal,
    chunked,
    dilated,
    documents,
    everything,
    global_tokens,
    head_groups,
    prefix_lm,
    random_blocks,
    sinks,
    sliding,
)
from transom.attention.patterns import pattern as of_policy
from transom.attention.rotary import Rotary
from transom.errors import InputError, PolicyError
from transom.policies import Sinks, Window

PATTERNS: list[Pattern] = [
    causal(),
    everything(),
    sliding(5),
    sliding(3, future=2),
    sinks(2) | sliding(4),
    dilated(4, 3),
    chunked(6),
    prefix_lm(9),
    causal() & global_tokens([0, 5]) | sliding(2),
    causal() & documents(torch.arange(200)[None] // 4),
    random_blocks(2, block=4, seed=1),
    ~sliding(3),
    head_groups([causal(), sinks(1) | sliding(3)], [0, 1, 1, 0]),
]


@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
@pytest.mark.parametrize(("batch", "seq"), [(1, 1), (3, 7), (1, 33), (1, 150)])
def test_every_pattern(pattern: Pattern, batch: int, seq: int) -> None:
    module, x = made(pattern=pattern), tokens(batch, seq)
    close(module(x), expected(module, x, pattern))


def test_the_patterns_differ() -> None:
    """So that the equalities above say something."""
    x = tokens(1, 33)
    outputs = [made(pattern=pattern)(x) for pattern in PATTERNS]
    for index, one in enumerate(outputs):
        for other in outputs[index + 1 :]:
            assert (one - other).abs().max() > 0.01


@pytest.mark.parametrize("kv_heads", [None, 1, 2, 3, 6])
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("head_dim", [None, 10])
def test_heads(kv_heads: int | None, rotary: bool, head_dim: int | None) -> None:
    module = made(num_heads=6, num_kv_heads=kv_heads, rotary=rotary, head_dim=head_dim)
    x = tokens(2, 19)
    assert module.head_dim == (head_dim or 4)
    assert module.k_proj.out_features == (kv_heads or 6) * module.head_dim
    close(module(x), expected(module, x, causal()))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (None, causal()),
        (Window(7), of_policy(Window(7))),
        ("sinks:2,window=5", of_policy(Sinks(2, 5))),
        (sliding(4), sliding(4)),
    ],
    ids=repr,
)
def test_what_a_pattern_may_be_given_as(given: Any, meant: Pattern) -> None:
    module, x = made(pattern=given), tokens(2, 21)
    close(module(x), expected(module, x, meant))


def test_two_numbers_are_enough() -> None:
    module = OptimizedAttention(24, 4)
    x = tokens(2, 9)
    assert module.rotary is None
    assert {name for name, _ in module.named_parameters()} == {
        f"{name}_proj.{kind}" for name in "qkvo" for kind in ("weight", "bias")
    }
    close(module(x), expected(module, x, causal()))


@pytest.mark.parametrize(("bias", "out_bias"), [(True, False), (False, True), (False, None)])
def test_biases(bias: bool, out_bias: bool | None) -> None:
    module, x = made(bias=bias, out_bias=out_bias), tokens(1, 9)
    assert (module.q_proj.bias is not None) == (module.v_proj.bias is not None) == bias
    assert (module.o_proj.bias is not None) == bool(out_bias)
    close(module(x), expected(module, x, causal()))


def test_scale() -> None:
    module, x = made(scale=0.9), tokens(1, 9)
    close(module(x), expected(module, x, causal()))
    assert (module(x) - made()(x)).abs().max() > 0.01


@pytest.mark.parametrize("interleaved", [False, True])
def test_a_rotary_of_ones_own(interleaved: bool) -> None:
    rotary = Rotary(torch.tensor([1.0, 0.1], dtype=torch.float64), interleaved)
    module, x = made(rotary=rotary), tokens(2, 9)
    close(module(x), expected(module, x, causal()))


def test_rope_theta() -> None:
    x = tokens(1, 30)
    module = made(rope_theta=100.0)
    torch.testing.assert_close(
        module.rotary.inv_freq, 100.0 ** -(torch.arange(3, dtype=torch.float64) / 3)
    )
    assert (module(x) - made()(x)).abs().max() > 0.01


@pytest.mark.parametrize("positions", [torch.arange(9) * 3 + 5, torch.randint(50, (2, 9))])
def test_positions(positions: Tensor) -> None:
    module, x = made(), tokens(2, 9)
    close(module(x, positions=positions), expected(module, x, causal(), positions=positions))
    assert (module(x, positions=positions) - module(x)).abs().max() > 0.01


def test_only_distances_count() -> None:
    module, x = made(), tokens(2, 9)
    close(module(x, positions=torch.arange(1000, 1009)[None]), module(x))


def test_streaming_heads() -> None:
    streaming, chosen = sinks(1) | sliding(3), [False, True, True, False]
    meant = head_groups([causal(), streaming], [0, 1, 1, 0])
    x = tokens(2, 21)
    for heads in (chosen, torch.tensor(chosen)):
        module = made(streaming_heads=heads, streaming_pattern=streaming)
        close(module(x), expected(module, x, meant))
    window = made(pattern="window:4", streaming_heads=chosen, streaming_pattern="window:2")
    meant = head_groups([sliding(4), sliding(2)], [0, 1, 1, 0])
    close(window(x), expected(window, x, meant))


def test_bfloat16() -> None:
    pattern = sinks(2) | sliding(20)
    x = tokens(2, 50)
    for mask in (None, real_rows(2, 50), causal().mask(50)):
        exact = made(pattern=pattern)(x, mask=mask)
        low = made(pattern=pattern).bfloat16()(x.bfloat16(), mask=mask)
        assert low.dtype == torch.bfloat16
        error = (low.float() - exact).abs()
        assert error.max() < 0.05
        assert error.mean() < 0.01


def test_autocast() -> None:
    module, x = made(), tokens(2, 20)
    with torch.autocast("cpu", torch.bfloat16):
        fused, blocks = module(x), module(x, mask=everything().mask(20))
    for output in (fused, blocks):
        assert output.dtype == torch.bfloat16
        assert (output.float() - module(x)).abs().max() < 0.05


# As a module


def test_a_copy_goes_its_own_way() -> None:
    module, x = made(pattern="window:4"), tokens(1, 9)
    twin = copy.deepcopy(module)
    assert torch.equal(twin(x), module(x))
    with torch.no_grad():
        twin.v_proj.weight.mul_(2)
    assert not torch.equal(twin(x), module(x))
    module.load_state_dict(twin.state_dict())
    assert torch.equal(twin(x), module(x))


def test_print() -> None:
    text = repr(made(pattern=chunked(4), dropout=0.1))
    assert "4 heads, 2 kv heads of 6, chunked(4), rotary over 6, dropout=0.1" in text
    assert "causal(), dropout=0.0" in repr(made(rotary=False))


def test_device_and_dtype() -> None:
    module = made(device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in module.parameters()} == {("meta", torch.bfloat16)}
    assert module.rotary.inv_freq.device.type == "cpu"


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 25}, r"hidden_size 25 is no multiple of num_heads 4; give head_dim"),
        ({"hidden_size": 0}, r"hidden_size is 0; expected at least 1"),
        ({"num_heads": 4.0}, r"num_heads is 4.0 \(float\)"),
        ({"num_kv_heads": 3}, r"num_heads is 4 and num_kv_heads 3; expected .* multiple"),
        ({"head_dim": -1}, r"head_dim is -1; expected at least 1"),
        ({"head_dim": 5}, r"head_dim is 5; rotary positions turn pairs"),
        ({"rotary": "yes"}, r"rotary is 'yes' \(str\); expected True, False or a Rotary"),
        ({"rotary": Rotary(torch.ones(4))}, r"turns 8 dimensions and a head has 6"),
        ({"rope_theta": 0}, r"rope_theta is 0; expected more than 0"),
        ({"dropout": 1.0}, r"dropout is 1.0; expected a probability"),
        ({"dropout": -0.1}, r"dropout is -0.1"),
        ({"pattern": 3}, r"pattern is 3 \(int\); expected a Pattern, a Policy"),
        ({"pattern": head_groups([causal()], [0, 0])}, r"pattern is for 2 heads; expected 4"),
        ({"streaming_heads": [True] * 4}, r"streaming_heads was given without streaming_pattern"),
        ({"streaming_pattern": sliding(3)}, r"streaming_pattern was given without streaming_heads"),
        (
            {"streaming_heads": [True] * 3, "streaming_pattern": sliding(3)},
            r"streaming_heads has shape \(3,\) and dtype torch.bool; expected \(4,\) bool",
        ),
        (
            {"streaming_heads": [0, 1, 1, 0], "streaming_pattern": sliding(3)},
            r"dtype torch.int64; expected \(4,\) bool",
        ),
        (
            {
                "streaming_heads": [True] * 4,
                "streaming_pattern": head_groups([causal()], [0, 0]),
            },
            r"streaming_pattern is for 2 heads; expected 4",
        ),
    ],
    ids=str,
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        made(**settings)


def test_a_text_that_is_no_policy() -> None:
    with pytest.raises(PolicyError, match="unknown policy 'windw'"):
        made(pattern="windw:3")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.randn(7, 24), r"shape \(7, 24\); expected \(batch, seq, 24\)"),
        (torch.randn(2, 7, 23), r"shape \(2, 7, 23\); expected \(batch, seq, 24\)"),
        (torch.randn(2, 0, 24), r"with at least one token"),
        (torch.ones(2, 7, 24).long(), r"dtype torch.int64; expected floats: embed"),
    ],
    ids=["two axes", "another size", "no token", "whole numbers"],
)
def test_inputs_that_do_not_fit(x: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        made()(x)


@pytest.mark.parametrize("positions", [torch.arange(8), torch.ones(3, 7).long(), torch.ones(7)])
def test_positions_that_do_not_fit(positions: Tensor) -> None:
    with pytest.raises(InputError, match=r"expected whole numbers \(7,\) or \(2, 7\)"):
        made()(tokens(2, 7), positions=positions)


def test_positions_without_rotary() -> None:
    with pytest.raises(InputError, match="no rotary positions"):
        made(rotary=False)(tokens(2, 7), positions=torch.arange(7))

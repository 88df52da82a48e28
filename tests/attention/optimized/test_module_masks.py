"""Padding and masks of queries by keys, in every form, against the slow computation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.attention_modules import (
    close,
    expected,
    made,
    masks,
    real_rows,
    slow_attention,
    tokens,
)
from transom.attention.patterns import (
    Pattern,
    causal,
    dilated,
    everything,
    padding,
    prefix_lm,
    sinks,
    sliding,
)
from transom.attention.patterns import pattern as of_policy
from transom.errors import InputError
from transom.policies import Sinks


@pytest.mark.parametrize("pattern", [causal(), everything(), sliding(5)], ids=repr)
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8])
@pytest.mark.parametrize("seq", [13, 150])
def test_padding(pattern: Pattern, dtype: torch.dtype, seq: int) -> None:
    module, x = made(pattern=pattern), tokens(3, seq)
    real = real_rows(3, seq)
    each = expected(module, x, pattern & padding(real))
    close(module(x, mask=real.to(dtype)), each)
    one = expected(module, x, pattern & padding(real[:1]))
    close(module(x, mask=real[0].to(dtype)), one)
    close(module(x, mask=real[:1].to(dtype)), one)
    assert (each - one).abs().max() > 0.01
    assert torch.equal(module(x, mask=torch.ones(3, seq).to(dtype)), module(x))


@pytest.mark.parametrize("pattern", [causal(), everything()], ids=repr)
def test_what_is_at_padding_is_not_seen(pattern: Pattern) -> None:
    module, x = made(pattern=pattern), tokens(3, 13)
    real = real_rows(3, 13)
    other = torch.where(real[..., None], x, 7 * x + 1)
    close(module(other, mask=real)[real], module(x, mask=real)[real])


def test_a_query_that_sees_nothing_gives_zeros() -> None:
    module, x = made(), tokens(2, 6)
    real = torch.tensor([[0, 0, 1, 1, 1, 1], [0] * 6])
    output = module(x, mask=real)
    nothing = module.o_proj.bias.expand(2, 6, 24)
    close(output[0, :2], nothing[0, :2])
    close(output[1], nothing[1])
    assert (output[0, 2:] - nothing[0, 2:]).abs().amax(-1).min() > 0.01


@pytest.mark.parametrize("name", masks(1, 1, 3))
@pytest.mark.parametrize("pattern", [causal(), everything(), sinks(2) | sliding(4)], ids=repr)
@pytest.mark.parametrize(("batch", "seq"), [(1, 5), (3, 13), (1, 150)])
def test_masks_of_queries_by_keys(name: str, pattern: Pattern, batch: int, seq: int) -> None:
    module, x = made(pattern=pattern), tokens(batch, seq)
    mask, bias = masks(batch, 4, seq)[name]
    visible = pattern.mask(seq, batch=batch, heads=4)
    if bias is None:
        visible = visible & mask
    close(module(x, mask=mask), slow_attention(module, x, visible, bias=bias))


def test_a_mask_of_the_patterns_own_changes_nothing() -> None:
    pattern = sinks(2) | sliding(40)
    module, x = made(pattern=pattern), tokens(2, 300)
    close(module(x, mask=pattern.mask(300)), module(x))


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_anything_together(data: st.DataObject) -> None:
    groups, kv_heads = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    batch, seq = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 40))
    heads = groups * kv_heads
    pattern: Pattern = data.draw(
        st.one_of(
            st.just(causal()),
            st.just(everything()),
            st.builds(sliding, st.integers(1, 50), st.integers(0, 5)),
            st.builds(dilated, st.integers(1, 9), st.integers(1, 5)),
            st.builds(prefix_lm, st.integers(1, 20)),
            st.builds(of_policy, st.builds(Sinks, st.integers(1, 4), st.integers(1, 9))),
        )
    )
    module = made(
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=2 * data.draw(st.integers(1, 5)),
        rotary=data.draw(st.booleans()),
        pattern=pattern,
    )
    form = data.draw(st.sampled_from([None, "padding", *masks(1, 1, 3)]))
    x, mask, bias, meant = tokens(batch, seq), None, None, pattern
    if form == "padding":
        bits = data.draw(st.lists(st.booleans(), min_size=batch * seq, max_size=batch * seq))
        mask = torch.tensor(bits).view(batch, seq)
        meant = pattern & padding(mask)
    visible = meant.mask(seq, batch=batch, heads=heads)
    if form in masks(1, 1, 3):
        mask, bias = masks(batch, heads, max(seq, 3))[form]
        mask, bias = (y if y is None else y[..., :seq, :seq] for y in (mask, bias))
        visible = visible & mask if bias is None else visible
    close(module(x, mask=mask), slow_attention(module, x, visible, bias=bias))


# What is refused


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(8).bool(), r"shape \(8,\); expected \(7,\) or \(2, 7\)"),
        (torch.ones(3, 7).bool(), r"shape \(3, 7\); expected \(7,\) or \(2, 7\)"),
        (torch.ones(7, 7).bool(), r"queries by keys pass 4 dimensions: mask\[None, None\]"),
        (torch.ones(2, 7, 7).bool(), r"shape \(2, 7, 7\); expected \(7,\) or \(2, 7\)"),
        (torch.tensor(True), r"shape \(\); expected"),
        (torch.ones(2, 7), r"dtype torch.float32; expected bool or whole numbers"),
        (torch.zeros(7, dtype=torch.complex64), r"dtype torch.complex64"),
        (torch.full((2, 7), -3), r"numbers from -3 to -3; expected only 1"),
        (torch.arange(7), r"numbers from 0 to 6"),
        ([True] * 7, r"mask is a list; expected a tensor"),
        (torch.ones(3, 1, 7, 7).bool(), r"expected \(2 or 1, 4 or 1, 7, 7\)"),
        (torch.ones(2, 2, 7, 7).bool(), r"expected \(2 or 1, 4 or 1, 7, 7\)"),
        (torch.ones(2, 1, 1, 7).bool(), r"For padding pass \(2, 7\)"),
        (torch.ones(2, 1, 7, 8).bool(), r"expected \(2 or 1, 4 or 1, 7, 7\)"),
        (torch.ones(2, 1, 7, 7).long(), r"dtype torch.int64; expected bool.* or floats"),
    ],
    ids=lambda value: str(getattr(value, "shape", "")),
)
def test_masks_that_do_not_fit(mask: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        made()(tokens(2, 7), mask=mask)


def test_a_pattern_for_another_batch() -> None:
    module = made(pattern=causal() & padding(torch.ones(3, 7)))
    with pytest.raises(InputError, match="is for 3 rows and x has 2"):
        module(tokens(2, 7))

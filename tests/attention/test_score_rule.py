"""Caps and sinks in attention, against a loop over single queries."""

from __future__ import annotations

import math
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from transom.attention.kernels import explicit as explicit_module
from transom.attention.kernels.by_blocks import BLOCK, attend_by_blocks
from transom.attention.kernels.explicit import KeyPart, explicit
from transom.attention.kernels.parts import attend_part, together, with_sink
from transom.attention.patterns import causal, sliding
from transom.attention.score_rule import ScoreRule
from transom.errors import UnsupportedModelError

RULES = [
    ScoreRule(0.7),
    ScoreRule(0.7, softcap=2.0),
    ScoreRule(0.7, sink_logits=torch.tensor([1.5, -1.0, 0.0, 40.0])),
    ScoreRule(0.7, softcap=2.0, sink_logits=torch.tensor([1.5, -1.0, 0.0, -40.0])),
]


def one_by_one(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, rule: ScoreRule) -> Tensor:
    """Attention of each query of each head, by sums of exponentials; float64.

    `seen` is `(batch, heads, q_len, kv_len)`.
    """
    batch, heads, q_len, _ = q.shape
    out = torch.zeros(batch, heads, q_len, v.shape[3], dtype=torch.float64)
    for row in range(batch):
        for head in range(heads):
            shared = head // (heads // k.shape[1])
            for query in range(q_len):
                total, sums = 0.0, torch.zeros(v.shape[3], dtype=torch.float64)
                if rule.sink_logits is not None:
                    total += math.exp(float(rule.sink_logits[head]))
                for key in seen[row, head, query].nonzero().flatten().tolist():
                    product = q[row, head, query].double() @ k[row, shared, key].double()
                    score = rule.scale * float(product)
                    if rule.softcap is not None:
                        score = rule.softcap * math.tanh(score / rule.softcap)
                    total += math.exp(score)
                    sums += math.exp(score) * v[row, shared, key].double()
                if total:
                    out[row, head, query] = sums / total
    return out


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_explicit_is_the_formula(data: st.DataObject) -> None:
    batch, kv_heads, group = (data.draw(st.integers(1, 2)) for _ in range(3))
    q_len, dim, value_dim = (data.draw(st.integers(1, 5)) for _ in range(3))
    heads = kv_heads * group
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    rule = ScoreRule(
        data.draw(st.sampled_from([0.5, 2.0])),
        data.draw(st.sampled_from([None, 0.5, 5.0])),
        2 * torch.randn(heads, generator=generator) if data.draw(st.booleans()) else None,
    )
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    k, v = (
        torch.randn(batch, kv_heads, sum(sizes), n, generator=generator) for n in (dim, value_dim)
    )
    q = 3 * torch.randn(batch, heads, q_len, dim, generator=generator)
    rows = data.draw(st.sampled_from([1, batch]))
    some_hidden = data.draw(st.booleans())
    seen = torch.rand(rows, 1, q_len, sum(sizes), generator=generator) < 0.6
    masks = seen.split(sizes, -1) if some_hidden else [None] * len(sizes)
    shown = (
        seen.expand(batch, heads, -1, -1)
        if some_hidden
        else seen.new_ones(1).expand(batch, heads, q_len, sum(sizes))
    )
    parts = [
        KeyPart(q, keys, values, mask)
        for keys, values, mask in zip(k.split(sizes, 2), v.split(sizes, 2), masks, strict=True)
    ]
    at_once = data.draw(st.sampled_from([1, 40, 1 << 24]))
    with patch.object(explicit_module, "SCORES_AT_ONCE", at_once):
        got = explicit(parts, rule)
    torch.testing.assert_close(got.double(), one_by_one(q, k, v, shown, rule), atol=1e-5, rtol=1e-4)


def test_parts_meet_queries_of_their_own() -> None:
    torch.manual_seed(0)
    one, two, k, v = (torch.randn(2, heads, 3, 4) for heads in (4, 4, 2, 2))
    rule = RULES[3]
    got = explicit(
        [KeyPart(one, k[:, :, :1], v[:, :, :1]), KeyPart(two, k[:, :, 1:], v[:, :, 1:])], rule
    )
    # A query of twice the dimensions, of which each key has one half.
    wide = torch.cat((one, two), -1)
    keys = torch.cat((k, torch.zeros_like(k)), -1)
    keys[:, :, 1:] = keys[:, :, 1:].roll(4, -1)
    seen = torch.ones(2, 4, 3, 3, dtype=torch.bool)
    torch.testing.assert_close(
        got.double(), one_by_one(wide, keys, v, seen, rule), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("at_once", [1, 1 << 24])
def test_gradients(rule: ScoreRule, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of queries, keys, values and sinks, whether scores are computed again for it or not."""
    monkeypatch.setattr(explicit_module, "SCORES_AT_ONCE", at_once)
    torch.manual_seed(0)
    inputs = [torch.randn(1, n, 3, 4, dtype=torch.float64).requires_grad_() for n in (4, 2, 2)]
    if rule.sink_logits is not None:
        inputs.append(rule.sink_logits.double().clamp(-3, 3).requires_grad_())
    seen = torch.ones(3, 3, dtype=torch.bool).tril(-1)  # the first query sees nothing

    def attend(q: Tensor, k: Tensor, v: Tensor, *sinks: Tensor) -> Tensor:
        own = ScoreRule(rule.scale, rule.softcap, *sinks)
        return explicit([KeyPart(q, k, v, seen)], own)

    torch.autograd.gradcheck(attend, inputs)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("pattern", [causal(), sliding(7), causal() & ~sliding(3)], ids=str)
def test_patterns_by_blocks(rule: ScoreRule, pattern: object) -> None:
    torch.manual_seed(0)
    q_len = BLOCK + 5
    q, k, v = (torch.randn(1, heads, q_len, 4) for heads in (4, 2, 2))
    seen = pattern.mask(q_len, q_len, batch=1, heads=4)  # type: ignore[attr-defined]
    got = attend_by_blocks(q, k, v, pattern, rule=rule)  # type: ignore[arg-type]
    few = [0, 1, 2, 50, BLOCK - 1, BLOCK, q_len - 1]
    expected = one_by_one(q[:, :, few], k, v, seen.expand(1, 4, -1, -1)[:, :, few], rule)
    torch.testing.assert_close(got[:, :, few].double(), expected, atol=1e-5, rtol=1e-4)


def test_the_sink_of_a_blockwise_pass_has_a_gradient() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, heads, 5, 4, dtype=torch.float64) for heads in (4, 2, 2))
    sinks = torch.randn(4, dtype=torch.float64).requires_grad_()

    def attend(sinks: Tensor) -> Tensor:
        return attend_by_blocks(q, k, v, causal(), rule=ScoreRule(0.7, 2.0, sinks))

    torch.autograd.gradcheck(attend, [sinks])


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_attention_in_parts_has_one_sink(rule: ScoreRule) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, heads, n, 4) for heads, n in ((4, 3), (2, 7), (2, 7)))
    grouped = q.reshape(2, 2, -1, 4)
    near, far = (
        attend_part(grouped, k[:, :, part], v[:, :, part], None, rule)
        for part in (slice(2), slice(2, 7))
    )
    near, far = (type(x)(x.out.reshape(2, 4, 3, 4), x.sums.reshape(2, 4, 3)) for x in (near, far))
    got = together(with_sink(near, rule.sink_logits), far)
    seen = torch.ones(2, 4, 3, 7, dtype=torch.bool)
    torch.testing.assert_close(
        got.out.double(), one_by_one(q, k, v, seen, rule), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(rule: ScoreRule, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, heads, 9, 16, dtype=dtype) for heads in (4, 2, 2))
    seen = torch.ones(9, 9, dtype=torch.bool).tril()
    got = explicit([KeyPart(q, k, v, seen)], rule)
    assert got.dtype == dtype
    expected = one_by_one(q, k, v, seen.expand(2, 4, -1, -1), rule)
    torch.testing.assert_close(got.double(), expected, atol=0.03, rtol=0.03)


def test_only_some_heads_have_their_own_sinks() -> None:
    rule = RULES[2].of_heads(slice(1, 3))
    assert rule.sink_logits is not None
    assert rule.sink_logits.tolist() == [-1.0, 0.0]
    assert RULES[1].of_heads(slice(1, 3)) is RULES[1]


@pytest.mark.parametrize(
    "arguments", [{"softcap": torch.tensor(2.0)}, {"s_aux": torch.zeros(1, 4)}, {"s_aux": 1.0}]
)
def test_arguments_of_another_kind_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(UnsupportedModelError, match=f"{next(iter(arguments))}.*expected"):
        ScoreRule.given(1.0, arguments)

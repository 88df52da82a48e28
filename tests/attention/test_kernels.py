"""Every kernel gives what the slow, obvious one gives, for every pattern; gradients too."""

from __future__ import annotations

import threading
from operator import and_, invert, or_
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.attention_inputs import DIM, HEADS, VALUE_DIM, tensors
from tests.helpers.patterns import SPELLED
from transom.attention.dispatch import attend
from transom.attention.kernels import pieces
from transom.attention.kernels.naive import naive
from transom.attention.patterns import (
    Pattern,
    causal,
    chunked,
    dilated,
    documents,
    everything,
    global_tokens,
    head_groups,
    padding,
    pattern,
    prefix_lm,
    random_blocks,
    sinks,
    sliding,
)
from transom.errors import InputError
from transom.policies import Chunked, Sinks

BATCH, LONGEST = 2, 203

PATTERNS = [
    everything(),
    causal(),
    sliding(50),
    sliding(7, future=3),
    sliding(50) | sinks(4),
    dilated(9, 4),
    chunked(30),
    prefix_lm(33),
    causal() & global_tokens(3),
    global_tokens([5, 100]) | sliding(10),
    random_blocks(2, block=16) | sliding(20),
    pattern(Sinks(4, 60)),
    pattern(Chunked(60, chunk=16)),
    causal() & documents([50, 70, 83]),
    causal() & documents(torch.arange(LONGEST).div(40).int() * torch.tensor([[1], [0]])),
    ~causal(),
    ~everything(),
    causal() & padding(torch.arange(LONGEST) >= torch.tensor([[0], [90]])),
    sliding(30) & padding(torch.arange(LONGEST) % 7 < torch.tensor([[5], [1]])),
    head_groups([causal(), sliding(9) | sinks(2)], [0, 1, 1, 0, 0, 1]),
]


@pytest.mark.parametrize("kernel", ["auto", "block_sparse", "dense"])
@pytest.mark.parametrize("q_len", [LONGEST, 77, 1])
@pytest.mark.parametrize("some", PATTERNS, ids=repr)
def test_outputs_and_gradients(some: Pattern, q_len: int, kernel: Any) -> None:
    inputs = [x.requires_grad_() for x in tensors(BATCH, q_len, LONGEST)]
    out, expected = attend(*inputs, some, kernel=kernel), naive(*inputs, some, DIM**-0.5)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)
    weight = torch.randn_like(out)
    for got, wanted in zip(
        torch.autograd.grad(out, inputs, weight),
        torch.autograd.grad(expected, inputs, weight),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
    with torch.inference_mode():
        again = attend(*(x.detach() for x in inputs), some, kernel=kernel)
    torch.testing.assert_close(again, out, atol=1e-5, rtol=1e-4)


def any_pattern() -> st.SearchStrategy[Pattern]:
    """Patterns that go on for ever, and combinations of them."""
    one = st.one_of(*SPELLED.values())
    return st.recursive(
        one,
        lambda some: st.one_of(
            st.builds(and_, some, some), st.builds(or_, some, some), st.builds(invert, some)
        ),
        max_leaves=4,
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(any_pattern(), st.integers(1, 150), st.integers(1, 150), st.integers(1, 2))
def test_any_pattern_at_any_size(some: Pattern, a: int, b: int, batch: int) -> None:
    q_len, kv_len = sorted((a, b))
    inputs = tensors(batch, q_len, kv_len)
    expected = naive(*inputs, some, DIM**-0.5)
    assert not expected.isnan().any()
    for kernel in ("auto", "block_sparse", "dense"):
        torch.testing.assert_close(attend(*inputs, some, kernel=kernel), expected)
    assert some.pairs(q_len, kv_len) == int(some.mask(q_len, kv_len).sum())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kernel", ["block_sparse", "dense"])
@pytest.mark.parametrize("some", [sliding(50) | sinks(4), ~causal(), dilated(9, 4)], ids=repr)
def test_half_precision(some: Pattern, kernel: Any, dtype: torch.dtype) -> None:
    inputs = tensors(BATCH, 77, LONGEST, dtype)
    out = attend(*inputs, some, kernel=kernel)
    assert out.dtype == dtype
    expected = naive(*(x.float() for x in inputs), some, DIM**-0.5)
    torch.testing.assert_close(out.float(), expected, atol=0.03, rtol=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("some", [sliding(50) | sinks(4), causal() & ~dilated(2, 9)], ids=repr)
def test_flex(some: Pattern) -> None:
    for q_len in (256, 128):
        inputs = tensors(1, q_len, 256)
        inputs[2] = inputs[2].repeat(1, 1, 1, 2)  # compiled, it wants values as wide as keys
        out = attend(*inputs, some, kernel="flex")
        torch.testing.assert_close(out, naive(*inputs, some, DIM**-0.5), atol=1e-5, rtol=1e-4)


def test_long_inputs_run_on_several_threads_and_leave_none_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pieces, "WORTH_THREADS", 0)
    monkeypatch.setattr(pieces, "SCORES_AT_ONCE", 1)  # the smallest pieces
    before, threads = torch.get_num_threads(), threading.active_count()
    torch.set_num_threads(3)
    try:
        for some in (sliding(50) | sinks(4), PATTERNS[-1]):
            inputs = [x.requires_grad_() for x in tensors(BATCH, LONGEST, LONGEST)]
            out, expected = attend(*inputs, some), naive(*inputs, some, DIM**-0.5)
            torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)
            got = torch.autograd.grad(out.square().sum(), inputs)
            wanted = torch.autograd.grad(expected.square().sum(), inputs)
            for a, b in zip(got, wanted, strict=True):
                torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
            assert torch.is_grad_enabled()
            assert torch.get_num_threads() == 3
            assert threading.active_count() == threads
    finally:
        torch.set_num_threads(before)


def test_under_autocast_dtypes_are_those_of_the_fused_kernel() -> None:
    inputs = tensors(1, 77, LONGEST)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attend(*inputs, sliding(9))
        fused = F.scaled_dot_product_attention(*inputs, enable_gqa=True)
    assert out.dtype == fused.dtype == torch.bfloat16
    low = [x.bfloat16() for x in inputs]
    torch.testing.assert_close(out, attend(*low, sliding(9)))


def test_transposed_inputs_are_read_as_they_are() -> None:
    inputs = tensors(BATCH, 77, LONGEST)
    views = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in inputs]
    some = sliding(50) | sinks(4)
    torch.testing.assert_close(attend(*views, some), attend(*inputs, some))


def test_memory_does_not_grow_with_the_square() -> None:
    """At 8,192 tokens a mask alone would take 67 MB; allocations are counted, not guessed."""
    q, k, v = tensors(1, 8192, 8192)
    some = sliding(64) | sinks(4)
    with torch.profiler.profile(profile_memory=True) as profile:
        attend(q, k, v, some)
    largest = max(abs(event.self_cpu_memory_usage) for event in profile.events())
    assert largest <= q.numel() * q.element_size()


def test_it_says_what_it_would_do() -> None:
    q, k, v = tensors(BATCH, LONGEST, LONGEST)
    said = attend.explain(q, k, v, sliding(20))
    assert said.kernel == "block_sparse"
    assert said.pairs == sliding(20).mask(LONGEST).sum()
    assert said.fraction == said.pairs / LONGEST**2
    assert said.flops == 2 * said.pairs * BATCH * HEADS * (DIM + VALUE_DIM)
    made = BATCH * HEADS * LONGEST * VALUE_DIM
    assert said.bytes == 4 * (q.numel() + k.numel() + v.numel() + made)
    assert "block_sparse: blocks compute" in str(said)
    assert attend.explain(q, k, v).kernel == "dense"
    assert attend.explain(q, k, v, causal()).kernel == "dense"
    assert attend.explain(q, k, v, ~sliding(3)).kernel == "dense"
    assert attend.explain(q[:, :, -1:], k, v, sliding(20)).kernel == "decode"
    assert attend.explain(q, k, v, dilated(3, 4)).why.startswith("4 plain windows")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, k, v: (q[0], k, v, None), r"expected \(batch, heads, length, dim\) each"),
        (lambda q, k, v: (q[:1], k, v, None), "expected the same batch"),
        (lambda q, k, v: (q, k, v[:, :, 1:], None), "expected the same batch"),
        (lambda q, k, v: (q[..., 1:], k, v, None), "same head_dim"),
        (lambda q, k, v: (q[:, :5], k, v, None), "a multiple of those of k"),
        (lambda q, k, v: (q, k[:, :, 5:], v[:, :, 5:], None), "no more queries than keys"),
        (lambda q, k, v: (q, k.half(), v, None), "expected one floating-point dtype"),
        (lambda q, k, v: (q, k, v, PATTERNS[-1] | head_groups([causal()], [0])), "heads"),
        (lambda q, k, v: (q, k, v, padding(torch.ones(3, 9))), "batch of 3"),
    ],
)
def test_what_does_not_fit_is_refused(change: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        attend(*change(*tensors(BATCH, 9, 9)))


def test_kernels_are_known() -> None:
    q, k, v = tensors(1, 9, 9)
    with pytest.raises(InputError, match="kernel is 'fast'; expected one of auto, block_sparse"):
        attend(q, k, v, kernel="fast")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'decode', for 9 queries"):
        attend(q, k, v, causal(), kernel="decode")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kernel", ["auto", "block_sparse", "dense"])
@pytest.mark.parametrize("some", PATTERNS, ids=repr)
def test_on_a_gpu(some: Pattern, kernel: Any) -> None:
    inputs = tensors(BATCH, 77, LONGEST)
    out = attend(*(x.cuda() for x in inputs), some, kernel=kernel)
    torch.testing.assert_close(out.cpu(), naive(*inputs, some, DIM**-0.5), atol=1e-3, rtol=1e-3)

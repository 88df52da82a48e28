"""Half precision on processors with instructions for it and on those without."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.helpers.attention_inputs import DIM, tensors
from transom.attention import attend, causal, sliding
from transom.attention.dispatch import blocks_pay
from transom.attention.kernels import products
from transom.attention.kernels.by_blocks import attend_by_blocks
from transom.attention.kernels.naive import naive
from transom.attention.kernels.products import multiplied_in
from transom.attention.patterns import dilated
from transom.attention.score_rule import ScoreRule

HALVES = [torch.bfloat16, torch.float16]
SEEN = sliding(40)


@pytest.fixture(params=["slow", "fast"])
def speed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How long half precision takes on this processor, next to float32."""
    halves = {"slow": 2.0, "fast": 0.5}[request.param]
    monkeypatch.setattr(products, "_seconds", lambda dtype: halves if dtype in HALVES else 1.0)
    return request.param


def inputs(dtype: torch.dtype) -> list[Tensor]:
    return [x.to(dtype).requires_grad_() for x in tensors(1, 200, 300)]


@pytest.mark.parametrize("dtype", HALVES)
def test_products_are_in_the_dtype_that_is_sooner_done(speed: str, dtype: torch.dtype) -> None:
    x = torch.ones(1, dtype=dtype)
    assert multiplied_in(x) == (torch.float32 if speed == "slow" else dtype)
    assert multiplied_in(x.to("meta")) == dtype
    for other in (torch.float32, torch.float64):
        assert multiplied_in(x.to(other)) == other


@pytest.mark.parametrize("dtype", HALVES)
def test_output_and_gradients_keep_their_dtype(speed: str, dtype: torch.dtype) -> None:
    for some in (SEEN, dilated(20, step=2)):
        states = inputs(dtype)
        out = attend(*states, some, kernel="block_sparse")
        gradients = torch.autograd.grad(out.float().square().sum(), states)
        exact = [x.detach().float().requires_grad_() for x in states]
        expected = naive(*exact, some, DIM**-0.5)
        wanted = torch.autograd.grad(expected.square().sum(), exact)
        assert {x.dtype for x in (out, *gradients)} == {dtype}
        for got, want in zip((out, *gradients), (expected, *wanted), strict=True):
            assert (got.float() - want).norm() < 0.02 * want.norm()


@pytest.mark.parametrize("dtype", HALVES)
def test_attention_by_its_formula_too(speed: str, dtype: torch.dtype) -> None:
    states = inputs(dtype)
    got = attend_by_blocks(*states, SEEN, rule=ScoreRule(DIM**-0.5))
    want = naive(*(x.float() for x in states), SEEN, DIM**-0.5)
    assert got.dtype == dtype
    assert (got.float() - want).norm() < 0.02 * want.norm()


def test_only_inputs_and_output_have_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where half precision is slow, scores and weights are computed in float32."""
    monkeypatch.setattr(products, "_is_fast", lambda dtype: False)
    states = [x.detach() for x in inputs(torch.bfloat16)]
    got = attend(*states, SEEN, kernel="block_sparse")
    want = naive(*(x.float() for x in states), SEEN, DIM**-0.5).bfloat16()
    torch.testing.assert_close(got, want, atol=0, rtol=2**-7)  # a unit in the last place


def test_the_explanation_says_so(speed: str) -> None:
    states = [x.bfloat16() for x in tensors(1, 300, 300)]
    why = attend.explain(*states, SEEN).why
    assert ("in float32, which this processor multiplies faster" in why) == (speed == "slow")


def test_blocks_are_weighed_as_what_they_compute_in(speed: str) -> None:
    x = torch.ones(1, dtype=torch.bfloat16)
    assert blocks_pay(0.9, x) == (speed == "fast")
    assert blocks_pay(0.5, x)
    states = [x.bfloat16() for x in tensors(1, 300, 300)]
    kernel = "dense" if speed == "slow" else "block_sparse"
    assert attend.explain(*states, causal() & sliding(290)).kernel == kernel


def test_what_is_measured_is_a_time_and_measured_once() -> None:
    assert 0 < products._seconds(torch.float32) < 1
    assert products._seconds(torch.float32) == products._seconds(torch.float32)

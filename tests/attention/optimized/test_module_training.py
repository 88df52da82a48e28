"""Gradients and dropout, of a plain module and of a compiled one."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.attention_modules import close, made, masks, real_rows, slow_attention, tokens
from transom.attention.patterns import Pattern, causal, padding, sinks, sliding


@pytest.mark.parametrize("pattern", [causal(), sinks(2) | sliding(4)], ids=repr)
@pytest.mark.parametrize("form", [None, "padding", "bool", "any numbers"])
@pytest.mark.parametrize("seq", [1, 11, 140])
def test_gradients(pattern: Pattern, form: str | None, seq: int) -> None:
    module, x = made(pattern=pattern), tokens(2, seq).requires_grad_()
    mask, bias, meant = None, None, pattern
    if form == "padding":
        mask = real_rows(2, seq)
        meant = pattern & padding(mask)
    visible = meant.mask(seq, batch=2, heads=4)
    if form in ("bool", "any numbers"):
        mask, bias = masks(2, 4, max(seq, 3))[form]
        mask = mask[..., :seq, :seq].clone()
        bias = bias if bias is None else mask.requires_grad_()
        visible = visible if mask.is_floating_point() else visible & mask
    inputs = [x, *module.parameters(), *([] if bias is None else [bias])]
    goal = torch.randn(2, seq, 24, generator=torch.Generator().manual_seed(5))
    fast = torch.autograd.grad((module(x, mask=mask) * goal).sum(), inputs)
    slow = slow_attention(module, x, visible, bias=bias)
    for one, two in zip(fast, torch.autograd.grad((slow * goal).sum(), inputs), strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, two, atol=2e-4, rtol=1e-3)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("form", ["bool", "0 and -inf"])
def test_no_gradient_on_the_way_is_nan(form: str) -> None:
    module, x = made(), tokens(1, 9)
    with torch.autograd.detect_anomaly(check_nan=True):
        module(x, mask=masks(1, 4, 9)[form][0]).sum().backward()
    assert module.k_proj.weight.grad.abs().max() > 0


def test_dropout_is_for_training() -> None:
    x, module, plain = tokens(2, 15), made(dropout=0.5), made()
    trained = module(x)
    assert (trained - plain(x)).abs().max() > 0.01
    assert not torch.equal(module(x), trained)
    assert torch.equal(module.eval()(x), plain(x))
    assert torch.equal(module(x), module(x))


@pytest.mark.parametrize("form", [None, "padding", "any numbers"])
def test_on_average_dropout_changes_nothing(form: str | None) -> None:
    module, seq, rows = made(dropout=0.3), 5, 6000
    x = tokens(1, seq)
    mask = None
    if form == "padding":
        mask = torch.tensor([1, 1, 0, 1, 1])
    elif form:
        mask = masks(1, 4, seq)[form][0]
    with torch.no_grad():
        dropped = module(x.expand(rows, -1, -1), mask=mask)
        kept = module.eval()(x, mask=mask)[0]
    deviation = dropped.std(0) / rows**0.5
    assert deviation.max() > 0
    assert ((dropped.mean(0) - kept).abs() < 5.5 * deviation + 1e-5).all()


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_compiled(dropout: float) -> None:
    torch._dynamo.reset()
    module = made(pattern=sinks(2) | sliding(6), dropout=dropout).eval()
    compiled = torch.compile(module)
    lengths = [24, 33, 40, 61]
    for seq in lengths:
        x, masked = tokens(2, seq), masks(2, 4, seq)
        for mask in (None, real_rows(2, seq), masked["bool"][0], masked["any numbers"][0]):
            with torch.no_grad():
                close(compiled.eval()(x, mask=mask), module.eval()(x, mask=mask))
            module.train()
            results = []
            for one in (compiled, module):
                torch.manual_seed(8)
                output = one(x, mask=mask)
                gradients = torch.autograd.grad(output.square().sum(), list(module.parameters()))
                results.append((output, *gradients))
            for fast, plain in zip(*results, strict=True):
                torch.testing.assert_close(fast, plain, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_no_length_and_no_mask_is_compiled_on_its_own() -> None:
    torch._dynamo.reset()
    module = made(pattern=sinks(2) | sliding(6)).eval()
    compiled = torch.compile(module)
    with torch.no_grad():
        for seq in (24, 33):  # the second is compiled for any length
            compiled(tokens(2, seq), mask=real_rows(2, seq))
        with torch._dynamo.config.patch(error_on_recompile=True):
            for seq in range(40, 50):
                x, mask = tokens(2, seq), real_rows(2, seq)
                close(compiled(x, mask=mask), module(x, mask=mask))

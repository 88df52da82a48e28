"""Perplexity by sliding window: each token counts once, in the first window that has it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.models import tiny, tokens
from transom import Context, SlidingWindow
from transom.errors import InputError


def loss_of_each(model: Any, ids: torch.Tensor) -> list[float]:
    """Losses of all tokens but the first, then of every token that could come next."""
    with torch.no_grad():
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
    return F.cross_entropy(logits[:-1], ids[1:], reduction="none").tolist()


def reference(model: Any, ids: torch.Tensor, size: int, stride: int) -> list[float]:
    """The losses, computed window by window and token by token."""
    losses = [float("nan")]
    for start in range(0, len(ids), stride):
        for position in range(len(losses), min(start + size, len(ids))):
            # The tokens before this one in the window; if there are none, the window before.
            first = start if position > start else max(0, start - stride)
            losses.append(loss_of_each(model, ids[first : position + 1])[-1])
    return losses


@settings(max_examples=15)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 24))
def test_each_token_counts_once_from_its_window(a: int, b: int, length: int) -> None:
    stride, size = sorted((a, b))
    model, ids = tiny("llama"), tokens(length + 1)[:length]
    context = Context(model, policy="full", chunk=4)
    got = context.score(ids, window=SlidingWindow(size, stride))
    expected = reference(model, ids, size, stride)[: len(ids)]
    np.testing.assert_allclose(got, np.array(expected), atol=1e-4)
    assert np.isnan(got[1:]).sum() == 0
    assert context.usage.seen == 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_special_ids_are_read_but_not_scored(side: Any) -> None:
    model, ids = tiny("llama"), tokens(23)
    window = SlidingWindow(9, 7, bos_id=1, eos_id=2, padding_side=side)
    got = Context(model).score(ids, window=window)
    bos = torch.tensor([1])
    for start in range(0, 23, 7):
        stop = min(start + 7, 23)
        wanted = loss_of_each(model, torch.cat([bos, ids[start:stop]]))
        if start == 0:
            wanted[0] = np.nan
        np.testing.assert_allclose(got[start:stop], wanted, atol=1e-4)


def test_tokens_that_are_left_out_have_a_loss_of_nan() -> None:
    got = Context(tiny("llama")).score(tokens(10), window=SlidingWindow(4, 4, drop_last=True))
    assert np.flatnonzero(np.isnan(got)).tolist() == [0, 8, 9]
    assert Context(tiny("llama")).score([], window=SlidingWindow(4, 4)).shape == (0,)


def test_windows_ignore_what_the_context_holds() -> None:
    context, window = Context(tiny("llama")), SlidingWindow(8, 4)
    alone = context.score(tokens(30), window=window)
    context.append(tokens(12, seed=1))
    window.add_tokens(range(5))
    before = context.fork()
    np.testing.assert_array_equal(context.score(tokens(30), window=window), alone)
    np.testing.assert_array_equal(context.score(tokens(9)), before.score(tokens(9)))
    assert len(window) == 5


def test_models_that_cannot_slide_can_be_scored() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=256, n_positions=16, n_embd=32, n_layer=2, n_head=2)
    model = GPT2LMHeadModel(config).eval()
    ids = tokens(40) % 256
    got = Context(model, policy="full").score(ids, window=SlidingWindow(16, 8))
    np.testing.assert_allclose(got, np.array(reference(model, ids, 16, 8)), atol=1e-4)


def test_windows_beyond_the_policy_are_refused() -> None:
    context = Context(tiny("llama"), policy="window:8")
    with pytest.raises(InputError, match="windows of 9 ids were asked for, and window:8 lets 8"):
        context.score(tokens(30), window=SlidingWindow(9, 4))
    with pytest.raises(InputError, match="messages cannot be scored"):
        context.score([{"role": "user", "content": "hi"}], window=SlidingWindow(8))


def documented(model: Any, ids: torch.Tensor, size: int, stride: int) -> float:
    """Mean loss as transformers' guide "Perplexity of fixed-length models" computes it."""
    total, counted, before = 0.0, 0, 0
    for start in range(0, len(ids), stride):
        stop = min(start + size, len(ids))
        labels = ids[None, start:stop].clone()
        labels[:, : -(stop - before)] = -100
        with torch.no_grad():
            loss = model(ids[None, start:stop], labels=labels).loss
        weight = int((labels != -100).sum()) - 1
        total, counted, before = total + float(loss) * weight, counted + weight, stop
        if stop == len(ids):
            break
    return total / counted


@pytest.mark.model
def test_the_documented_perplexity_weighs_windows_a_little_differently(smollm2: Any) -> None:
    """The guide takes one token too many off the weight of every window but the first."""
    from transom.cli.demo import reference as text

    size, stride = 256, 64
    ids = torch.tensor(smollm2.tokenizer(text()[:6000]).input_ids)
    losses = Context(smollm2.model, smollm2.tokenizer).score(
        ids, window=SlidingWindow(size, stride)
    )
    theirs = documented(smollm2.model, ids, size, stride)
    edges = [1, *range(size, len(ids), stride), len(ids)]
    groups = [losses[a:b] for a, b in pairwise(edges)]
    weights = [len(groups[0]), *(len(group) - 1 for group in groups[1:])]
    means = [float(group.mean()) for group in groups]
    assert np.average(means, weights=weights) == pytest.approx(theirs, abs=1e-4)
    ours = float(np.nanmean(losses))
    assert ours != pytest.approx(theirs, abs=1e-4)
    assert ours == pytest.approx(theirs, abs=0.02)

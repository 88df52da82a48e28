"""Losses along a text: exact over any stretch, in constant memory."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transom.errors import InputError
from transom.evaluate import LossCurve
from transom.evaluate.losses import BINS


def curve_of(losses, pieces=1):
    curve = LossCurve()
    for piece in np.array_split(np.asarray(losses, dtype=np.float32), pieces):
        curve.add(piece)
    return curve


def text(tokens):
    losses = np.random.default_rng(tokens).exponential(2.5, tokens).astype(np.float32)
    losses[0] = np.nan
    return losses


@given(
    tokens=st.integers(1, 3 * BINS),
    pieces=st.integers(1, 9),
    at_most=st.integers(1, 64),
)
def test_the_loss_of_a_stretch_is_the_mean_over_its_tokens(tokens, pieces, at_most):
    losses = text(tokens)
    curve = curve_of(losses, pieces)
    stretches = curve.stretches(curve.length(at_most))
    assert len(stretches) <= at_most
    assert [s.start for s in stretches] == [0, *(s.stop for s in stretches[:-1])]
    assert stretches[-1].stop == curve.tokens == tokens
    for start, stop, loss in stretches:
        scored = losses[start:stop][~np.isnan(losses[start:stop])]
        expected = scored.mean(dtype=np.float64) if len(scored) else math.nan
        assert loss == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_memory_does_not_grow_with_the_text():
    curve = LossCurve()
    before = curve._sums.nbytes + curve._counts.nbytes
    for _ in range(100):
        curve.add(np.full(20_000, 2.0, dtype=np.float32))
    assert curve.tokens == 2_000_000
    assert curve._sums.nbytes + curve._counts.nbytes == before < 1_000_000
    assert curve.mean == 2.0


def test_stretches_are_short_powers_of_two():
    assert curve_of(text(12_500)).length(at_most=8) == 2048
    assert curve_of(text(12_500)).stretches(8192)[0] == curve_of(text(12_500)).stretch(0, 8192)


def test_a_fault_of_the_model_is_not_taken_for_the_first_token():
    losses = text(8)
    losses[5] = np.nan
    curve = curve_of(losses)
    assert math.isnan(curve.mean)
    assert [math.isnan(s.loss) for s in curve.stretches(4)] == [False, True]


def test_refuses_stretches_finer_than_what_is_kept():
    curve = curve_of(text(BINS + 1))
    with pytest.raises(InputError, match="multiples of 2"):
        curve.stretches(3)
    with pytest.raises(InputError, match="multiples of 2"):
        curve.stretch(1, BINS)

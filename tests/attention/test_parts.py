"""Attention joined from parts equals attention to all keys at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transom.attention.kernels.parts import Attended, attend_part, together
from transom.attention.score_rule import ScoreRule


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_parts_together_are_the_whole(data: st.DataObject) -> None:
    rows, heads, queries, dim = (data.draw(st.integers(1, n)) for n in (2, 3, 5, 8))
    value_dim = data.draw(st.sampled_from([dim, dim + 1]))  # one kernel takes no other than dim
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    # Large scores: the sums must not overflow, nor a part of hardly any weight be lost.
    q = 9 * torch.randn(rows, heads, queries, dim, generator=generator)
    k, v = (torch.randn(rows, heads, sum(sizes), n, generator=generator) for n in (dim, value_dim))
    hidden = torch.rand(queries, sizes[-1], generator=generator) < 0.5
    hidden[:, 0] = False
    scores = (q @ k.transpose(-1, -2)).double()
    scores[..., -sizes[-1] :].masked_fill_(hidden, -torch.inf)
    got: Attended | None = None
    for number, (keys, values) in enumerate(zip(k.split(sizes, 2), v.split(sizes, 2), strict=True)):
        bias = torch.zeros(queries, sizes[-1]).masked_fill_(hidden, -torch.inf)
        last = bias if number == len(sizes) - 1 else None
        part = attend_part(q, keys, values, last, ScoreRule(1.0))
        got = part if got is None else together(got, part)
    assert got is not None
    torch.testing.assert_close(got.out, (scores.softmax(-1) @ v.double()).float())
    torch.testing.assert_close(got.sums, scores.logsumexp(-1).float())


def test_bfloat16_gives_float32() -> None:
    q, k, v = (torch.randn(1, 2, 3, 4, dtype=torch.bfloat16) for _ in range(3))
    got = attend_part(q, k, v, None, ScoreRule(0.5))
    expected = attend_part(q.float(), k.float(), v.float(), None, ScoreRule(0.5))
    assert got.out.dtype == got.sums.dtype == torch.float32
    torch.testing.assert_close(got.out, expected.out, rtol=0.02, atol=0.02)
    torch.testing.assert_close(got.sums, expected.sums, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("other", [-1e4, 1e4])
def test_a_part_without_weight_changes_nothing(other: float) -> None:
    seen = Attended(torch.ones(1, 1), torch.zeros(1))
    else_ = Attended(torch.zeros(1, 1), torch.tensor([other]))
    assert together(seen, else_).out.item() == (1.0 if other < 0 else 0.0)
    assert together(seen, else_).sums.item() == max(0.0, other)

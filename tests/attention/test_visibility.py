"""Many queries over kept keys see what the policy says, in every way of computing it."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.positional_reference import reference_attention
from transom.attention.kernels.naive import naive
from transom.attention.patterns import chunked, pattern, sliding
from transom.attention.rotary import Rotary
from transom.attention.visibility import QUERY_BLOCK, Visibility
from transom.policies import Chunked, Full, Policy, Sinks, Window

ROTARY = Rotary(torch.tensor([1.0, 0.2, 0.05, 0.01], dtype=torch.float64))
POLICIES = [Full(), Window(7), Sinks(3, 6), Chunked(8, 3)]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("length", [1, 2, 7, 9, QUERY_BLOCK + 37])
def test_equals_the_reference(policy: Policy, length: int) -> None:
    torch.manual_seed(1)
    q, k, v = (
        torch.randn(1, 6, length, 8),
        torch.randn(1, 2, length, 8),
        torch.randn(1, 2, length, 5),
    )
    positions = torch.arange(length)[None]
    cos, sin = ROTARY.angles(positions[0])
    shuffled = torch.randperm(length)
    seen = Visibility(
        policy,
        queries=positions,
        keys=positions[:, shuffled],
        rotary=ROTARY,
        rotation=ROTARY.angles(-policy.gap(positions)) if policy.pinned else None,
    )
    keys = ROTARY.rotate(k, cos, sin)[:, :, shuffled]
    fast = seen.attend(ROTARY.rotate(q, cos, sin), keys, v[:, :, shuffled])
    slow = reference_attention(q, k, v, policy, ROTARY)
    torch.testing.assert_close(fast, slow, atol=2e-5, rtol=1e-4)


def test_the_split_softmax_runs_in_bfloat16() -> None:
    policy, length = Sinks(3, 6), 40
    q, k, v = (torch.randn(2, 4, length, 8, dtype=torch.bfloat16) for _ in range(3))
    positions = torch.arange(length)[None]
    rotation = ROTARY.angles(-policy.gap(positions))
    exact = Visibility(policy, positions, positions, ROTARY, rotation)
    fast = exact.attend(q, k, v)
    same = Visibility(policy, positions, positions, ROTARY, rotation)
    slow = same.attend(q.float(), k.float(), v.float())
    assert fast.dtype == torch.bfloat16
    torch.testing.assert_close(fast.float(), slow, atol=0.03, rtol=0.03)


@pytest.mark.parametrize("length", [30, 90, 400])  # one masked call, several, and blocks
@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("policy", [Window(20), Sinks(3, 17)], ids=str)
def test_queries_from_which_a_pattern_hides_all_keys_give_zeros(
    policy: Policy, rotated: bool, length: int
) -> None:
    some = chunked(25) & ~sliding(2)
    q, k, v = torch.randn(1, 6, length, 8), *torch.randn(2, 1, 2, length, 8)
    positions = torch.arange(length)[None]
    rotation = ROTARY.angles(torch.zeros_like(positions)) if rotated and policy.pinned else None
    seen = Visibility(policy, positions, positions, ROTARY, rotation, pattern=some)
    fast, slow = seen.attend(q, k, v), naive(q, k, v, pattern(policy) & some, 8**-0.5)
    torch.testing.assert_close(fast, slow, atol=2e-5, rtol=1e-4)
    assert not fast[:, :, 25:27].any()

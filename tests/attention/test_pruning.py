"""Blocks chosen by content: the choice, attention over it, and its share of full attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from transom.attention.pruning import BlockChoice, attend_blocks, choose_blocks, mass_kept
from transom.errors import InputError

HEADS, KV_HEADS, DIM, VALUE_DIM = 6, 2, 8, 4
GROUP = HEADS // KV_HEADS


def tensors(batch: int, q_len: int, kv_len: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(q_len * 1000 + kv_len)
    shapes = (HEADS, q_len, DIM), (KV_HEADS, kv_len, DIM), (KV_HEADS, kv_len, VALUE_DIM)
    return [torch.randn(batch, *shape, generator=generator) for shape in shapes]


def visible(choice: BlockChoice, batch: int) -> Tensor:
    """What a choice lets queries see, query by query, `(batch, heads, q_len, kv_len)` bool."""
    seen = torch.zeros(batch, HEADS, choice.q_len, choice.kv_len, dtype=torch.bool)
    for query in range(choice.q_len):
        position = choice.kv_len - choice.q_len + query
        number = position // choice.block - choice.first_block
        for row in range(batch):
            for head in range(HEADS):
                for kept in choice.kept[row, head // GROUP, number].tolist():
                    if kept >= 0:
                        keys = range(kept * choice.block, (kept + 1) * choice.block)
                        seen[row, head, query, [k for k in keys if k <= position]] = True
    return seen


def weights(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    scores = q @ k.repeat_interleave(GROUP, 1).transpose(2, 3) * DIM**-0.5
    return scores.masked_fill(~mask, -torch.inf).softmax(-1)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 2),
    st.integers(1, 20),
    st.integers(2, 6),
    st.data(),
)
def test_attention_over_the_blocks(
    a: int, b: int, batch: int, block: int, keep: int, data: Any
) -> None:
    q_len, kv_len = sorted((a, b))
    local = data.draw(st.integers(1, keep))
    sinks = data.draw(st.integers(0, keep - local))
    q, k, v = tensors(batch, q_len, kv_len)
    choice = choose_blocks(q, k, keep=keep, block=block, sinks=sinks, local=local)
    mask = visible(choice, batch)
    expected = weights(q, k, mask) @ v.repeat_interleave(GROUP, 1)
    torch.testing.assert_close(attend_blocks(q, k, v, choice), expected, atol=1e-5, rtol=1e-4)
    first = choice.first_block
    for number in range(choice.kept.shape[2]):
        own = first + number
        for kept in choice.kept[:, :, number].flatten(0, 1).tolist():
            blocks = [n for n in kept if n >= 0]
            assert blocks == sorted(set(blocks))
            assert len(blocks) == min(keep, own + 1)
            wanted = {*range(min(sinks, own + 1)), *range(max(0, own - local + 1), own + 1)}
            assert wanted <= set(blocks)
            assert max(blocks) == own


def test_the_best_by_mean_are_chosen() -> None:
    q, k, _ = tensors(1, 64, 64)
    choice = choose_blocks(q, k, keep=3, block=8, sinks=0, local=1)
    for head in range(KV_HEADS):
        for number in range(8):
            query = q[0, head * GROUP : (head + 1) * GROUP, number * 8 : number * 8 + 8]
            mean = query.mean((0, 1))
            scores = [float(mean @ k[0, head, n * 8 : n * 8 + 8].mean(0)) for n in range(number)]
            best = sorted(range(number), key=lambda n, s=scores: -s[n])[:2]
            kept = [n for n in choice.kept[0, head, number].tolist() if n >= 0]
            assert kept == sorted([*best, number])


def test_the_mass_kept_is_that_of_full_attention() -> None:
    q, k, _ = tensors(2, 50, 70)
    causal = torch.arange(70) <= torch.arange(20, 70)[:, None]
    full = weights(q, k, causal.expand(2, HEADS, 50, 70))
    last = 0.0
    for keep in (2, 3, 5, 20):
        choice = choose_blocks(q, k, keep=keep, block=8)
        exact = float((full * visible(choice, 2)).sum(-1).mean())
        assert mass_kept(q, k, choice, queries=50) == pytest.approx(exact, abs=1e-6)
        assert last < exact
        last = exact
    assert last == pytest.approx(1)
    assert abs(mass_kept(q, k, choice, queries=7) - 1) < 1e-6


def test_half_precision_and_transposed_inputs() -> None:
    inputs = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in tensors(2, 50, 70)]
    choice = choose_blocks(*inputs[:2], keep=3, block=8)
    exact = attend_blocks(*inputs, choice)
    half = attend_blocks(*(x.bfloat16() for x in inputs), choice)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.03, rtol=0.03)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": 0}, "keep is 0"),
        ({"block": 1.5}, "block is 1.5"),
        ({"local": 0}, "local is 0"),
        ({"keep": 2, "sinks": 2}, r"expected sinks \+ local <= keep"),
    ],
)
def test_sizes_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_blocks(*tensors(1, 9, 9)[:2], **arguments)


def test_a_choice_is_for_its_sizes_and_for_inference() -> None:
    q, k, v = tensors(1, 9, 20)
    choice = choose_blocks(q, k, block=4)
    with pytest.raises(InputError, match="chosen for 9 queries and 20 keys; got 8 and 20"):
        attend_blocks(q[:, :, 1:], k, v, choice)
    with pytest.raises(InputError, match="9 queries and 8 keys"):
        choose_blocks(q, k[:, :, :8])
    with pytest.raises(InputError, match="pruning has no gradients"):
        attend_blocks(q.requires_grad_(), k, v, choice)

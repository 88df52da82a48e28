"""Attention by blocks: the backward pass repeats the dropout; one block bounds the memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from transom.attention.kernels.by_blocks import BLOCK, attend_by_blocks
from transom.attention.patterns import Pattern, causal, everything, padding, sinks, sliding
from transom.attention.score_rule import ScoreRule

RULE = ScoreRule(0.4)


def drawn(seq: int, kv_len: int | None = None, **more: Any) -> list[Tensor]:
    torch.manual_seed(seq)
    sizes = [(2, 4, seq, 6), (2, 2, kv_len or seq, 6), (2, 2, kv_len or seq, 5)]
    return [torch.randn(size, **more).requires_grad_() for size in sizes]


def dropped(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, dropout: float) -> Tensor:
    """All weights at once, then dropout block by block, in the order of the kernel."""
    k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    scores = q @ k.transpose(2, 3) * 0.4
    visible = pattern.mask(q.shape[2], k.shape[2], batch=2, heads=4)
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    blocks = [F.dropout(block, dropout) for block in weights.split(BLOCK, dim=2)]
    return torch.cat(blocks, dim=2) @ v


@pytest.mark.parametrize("seq", [1, 40, BLOCK, 2 * BLOCK + 9])
def test_the_gradient_is_that_of_what_was_dropped(seq: int) -> None:
    inputs = drawn(seq)
    goal = torch.randn(2, 4, seq, 5)
    pattern = everything()
    torch.manual_seed(1)
    output = attend_by_blocks(*inputs, pattern, rule=RULE, dropout=0.4)
    fast = torch.autograd.grad((output * goal).sum(), inputs)
    torch.manual_seed(1)
    expected = dropped(*inputs, pattern, 0.4)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)
    slow = torch.autograd.grad((expected * goal).sum(), inputs)
    for one, two in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-3)


def test_gradients_by_finite_differences() -> None:
    inputs = drawn(5, 7, dtype=torch.float64)
    bias = torch.randn(1, 4, 5, 7, dtype=torch.float64).requires_grad_()
    # The first key is padding, so with 5 queries at keys 2 to 6 and a window of 1 all see one.
    pattern = sliding(2) & padding(torch.tensor([[0, 1, 0, 0, 1, 1, 1]]))
    torch.autograd.gradcheck(
        lambda q, k, v, mask: attend_by_blocks(q, k, v, pattern, mask=mask, rule=RULE),
        (*inputs, bias),
    )


@pytest.mark.parametrize("pattern", [causal(), sliding(9), sinks(3) | sliding(5)], ids=repr)
@pytest.mark.parametrize(("q_len", "kv_len"), [(1, 300), (5, 300), (BLOCK + 1, 300), (300, 300)])
def test_queries_stand_at_the_last_keys(pattern: Pattern, q_len: int, kv_len: int) -> None:
    q, k, v = drawn(q_len, kv_len)
    output = attend_by_blocks(q, k, v, pattern, rule=RULE)
    torch.testing.assert_close(output, dropped(q, k, v, pattern, 0.0), atol=1e-5, rtol=1e-4)


class Largest(TorchDispatchMode):
    """Records the number of elements of the largest result."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(result) if isinstance(x, Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("masked", [False, True])
def test_no_more_than_a_block_at_once(dropout: float, masked: bool) -> None:
    seq = 8 * BLOCK
    inputs = drawn(seq)
    mask = torch.zeros(2, 4, seq, seq) if masked else None
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        output = attend_by_blocks(*inputs, causal(), mask=mask, rule=RULE, dropout=dropout)
        output.sum().backward()
    assert largest.elements <= 2 * 4 * BLOCK * seq
    held = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in kept}
    if mask is not None:
        held.pop(mask.untyped_storage().data_ptr(), None)
    assert sum(held.values()) < 4 * 2 * 4 * seq * seq / 4


def test_keys_out_of_sight_are_not_looked_at() -> None:
    seq = 8 * BLOCK
    q, k, v = (x.detach() for x in drawn(seq))
    with Largest() as largest:
        attend_by_blocks(q, k, v, sliding(BLOCK), rule=RULE)
    assert largest.elements <= 2 * 4 * BLOCK * 2 * BLOCK

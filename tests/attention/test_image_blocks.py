"""Blocks of tokens that see each other, read off a mask function of transformers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.masking_utils import blockwise_overlay, causal_mask_function, or_masks

from transom.attention.image_blocks import image_blocks
from transom.errors import CacheError


def of(ids: list[list[int]], first: int = 0) -> torch.Tensor | None:
    held = torch.tensor(ids)
    return image_blocks(
        mask_function=or_masks(causal_mask_function, blockwise_overlay(held)),
        batch_size=len(ids),
        q_length=held.shape[1] - first,
        q_offset=first,
        device=torch.device("cpu"),
    )


runs = st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=2, max_size=6)


@given(runs)
def test_finds_the_blocks_that_the_mask_was_made_of(parts):
    ids = [i if block else -1 for i, (size, block) in enumerate(parts) for _ in range(size)]
    if len(ids) < 2:
        return
    found, held = of([ids]), torch.tensor(ids)
    same = (found[0][:, None] == found[0]) & (found[0] >= 0)
    want = (held[:, None] == held) & (held >= 0)
    alone = want.sum(1) == 1  # one token sees itself anyway
    assert torch.equal(same, want & ~alone[:, None])


def test_a_block_of_tokens_that_are_apart_is_none():
    assert of([[0, -1, 0, -1]]) is None


def test_a_block_cut_by_a_pass_is_refused():
    assert of([[0, 0, -1, 1, 1, -1]], first=2).tolist() == [[-1, 2, 2, -1]]
    with pytest.raises(CacheError, match="two forward passes"):
        of([[-1, 0, 0, 0, 0, -1]], first=3)

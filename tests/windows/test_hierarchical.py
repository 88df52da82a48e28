from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.window_texts import SIZES, texts
from transom.errors import InputError
from transom.windows import HierarchicalContext


@given(SIZES, SIZES, texts())
def test_recent_is_the_guides(local: int, global_: int, text: Any) -> None:
    ids, pieces = text
    context = HierarchicalContext(local, global_)
    near: list[int] = []
    far: list[int] = []
    for piece in pieces:
        context.add_tokens(piece)
        near += piece
        far = (far + near[:-local])[-global_:]
        near = near[-local:]
        shown = context.get_context()
        assert (shown.local_ids.tolist(), shown.global_ids.tolist()) == (near, far)
        assert shown.local_mask.tolist() == [1] * len(near)
        assert shown.global_mask.tolist() == [1] * len(far)
    assert context.dropped == len(ids) - len(near) - len(far)


@given(SIZES, SIZES, st.lists(st.integers(0, 40), max_size=12))
def test_uniform_samples_evenly(local: int, global_: int, lengths: list[int]) -> None:
    context = HierarchicalContext(local, global_, global_strategy="uniform")
    for length in lengths:
        context.add_tokens(range(context.seen, context.seen + length))
        evicted = max(0, context.seen - local)
        every = 1
        while len(range(0, evicted, every)) > global_:
            every *= 2
        shown = context.get_context().global_ids
        assert shown.tolist() == list(range(0, evicted, every))
        if evicted > global_:
            assert len(shown) >= -(-global_ // 2)
    assert context.policy is None
    assert context.dropped == context.seen - len(context)


def every_other(ids: np.ndarray) -> np.ndarray:
    return ids[::2]


@given(SIZES, st.integers(1, 6), SIZES, texts())
def test_compression_does_not_depend_on_the_split(
    local: int, block: int, more: int, text: Any
) -> None:
    ids, pieces = text
    context = HierarchicalContext(
        local, block + more, global_strategy=every_other, block=block, vocab_size=500
    )
    whole = copy.deepcopy(context)
    whole.add_tokens(ids)
    for piece in pieces:
        context.add_tokens(piece)
    assert context == whole
    evicted = ids[: max(0, len(ids) - local)]
    stop = len(evicted) - len(evicted) % block
    far = [i for at in range(0, stop, block) for i in evicted[at : at + block : 2]]
    expected = (far + evicted[stop:])[-(block + more) :]
    assert context.get_context().global_ids.tolist() == expected
    assert context.ids.tolist() == expected + ids[len(evicted) :]
    assert context.dropped == stop


@pytest.mark.parametrize(
    ("compress", "message"),
    [
        (lambda ids: [*ids, 1], "returned 9 ids for a block of 8"),
        (lambda ids: [500], "returned for a block: ids range from 500"),
        (lambda ids: ids / 2, "returned for a block: .*float64"),
        (lambda ids: None, "returned for a block"),
    ],
)
def test_what_cannot_be_compressed_changes_nothing(compress: Any, message: str) -> None:
    calls = iter([False, True])
    context = HierarchicalContext(
        4,
        16,
        global_strategy=lambda ids: compress(ids) if next(calls) else ids[:1],
        block=8,
        vocab_size=500,
    )
    context.add_tokens(range(3))
    before = context.ids.tolist()
    with pytest.raises(InputError, match=message):
        context.add_tokens(range(40))
    assert context.ids.tolist() == before
    assert context.seen == 3


def test_a_callable_cannot_reach_the_tokens_held() -> None:
    def vandal(ids: np.ndarray) -> np.ndarray:
        ids[:] = 0
        return ids[:0]

    context = HierarchicalContext(2, 8, global_strategy=vandal, block=3)
    given_ids = np.arange(1, 11)
    context.add_tokens(given_ids)
    assert given_ids.tolist() == list(range(1, 11))
    assert context.ids.tolist() == [7, 8, 9, 10]


def test_strategies_are_checked() -> None:
    with pytest.raises(InputError, match="'newest'; expected 'recent', 'uniform' or a callable"):
        HierarchicalContext(global_strategy="newest")
    with pytest.raises(InputError, match="block is 9 and global_size 8"):
        HierarchicalContext(4, 8, global_strategy=every_other, block=9)

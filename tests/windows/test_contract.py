"""What every token window must do. The suite runs over every type that the factory knows."""

from __future__ import annotations

import copy
import pickle
from array import array
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.window_texts import SIZES, texts
from transom.errors import InputError, TransomError
from transom.windows import (
    ContextWindow,
    ContextWindowFactory,
    HierarchicalContext,
    MemoryEfficientContext,
    SlidingWindow,
    TokenState,
)

NAMES = sorted(ContextWindowFactory.known())


@st.composite
def windows(draw: Any) -> TokenState:
    """An empty window of any type, so small that tests reach every case."""
    small, large = sorted((draw(SIZES), draw(SIZES)))
    kind = draw(st.sampled_from(NAMES))
    if kind == "simple":
        return ContextWindow(large, pinned=draw(st.integers(0, large - 1)), vocab_size=500)
    if kind == "sliding":
        return SlidingWindow(large, small, vocab_size=500)
    if kind == "hierarchical":
        return HierarchicalContext(small, large, vocab_size=500)
    return MemoryEfficientContext(large, small, vocab_size=500)


@given(windows(), texts())
def test_it_shows_what_its_policy_makes_visible(window: TokenState, text: Any) -> None:
    ids, pieces = text
    for piece in pieces:
        window.add_tokens(piece)
        seen = window.seen
        assert window.policy is not None
        expected = [i for i in range(seen) if window.policy.visible(seen - 1, i)]
        assert window.ids.tolist() == [ids[i] for i in expected]
        if not isinstance(window, SlidingWindow):  # it keeps all tokens until `flush`
            assert len(window) == len(expected)
        assert window.dropped == seen - len(window)
    assert window.seen == len(ids)


@given(windows(), texts())
def test_the_split_makes_no_difference(window: TokenState, text: Any) -> None:
    ids, pieces = text
    whole = copy.deepcopy(window)
    whole.add_tokens(ids)
    for piece in pieces:
        window.add_tokens(piece)
    assert window == whole
    window.add_tokens([1])
    assert window != whole


@given(windows(), texts())
def test_pickle_and_clear(window: TokenState, text: Any) -> None:
    empty = copy.deepcopy(window)
    ids, pieces = text
    window.add_tokens(ids)
    again = pickle.loads(pickle.dumps(window))
    assert again == window
    for piece in pieces:
        window.add_tokens(piece)
        again.add_tokens(piece)
    assert again == window
    window.clear()
    assert window == empty
    assert window.seen == window.dropped == len(window) == 0


@given(windows(), texts())
def test_what_was_shown_stays_as_it_was(window: TokenState, text: Any) -> None:
    ids, _ = text
    window.add_tokens(ids)
    before = window.ids
    copied = before.tolist()
    for _ in range(30):
        window.add_tokens([499, 498, 497])
    assert before.tolist() == copied
    assert not before.flags.writeable


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "ids",
    [
        [7, 300, 0],
        (7, 300, 0),
        np.array([7, 300, 0], dtype=np.uint16),
        np.array([7, 300, 0], dtype=np.uint64),
        torch.tensor([7, 300, 0]),
        array("H", [7, 300, 0]),
        iter([7, 300, 0]),
        (i for i in (7, 300, 0)),
    ],
    ids=lambda ids: type(ids).__name__,
)
def test_values_that_hold_ids(name: str, ids: Any) -> None:
    window = ContextWindowFactory.create_window(name)
    ids = copy.copy(ids) if not hasattr(ids, "gi_frame") else iter([7, 300, 0])
    window.add_tokens(ids)
    window.add_tokens(range(2))
    assert window.ids.tolist() == [7, 300, 0, 0, 1]


HOSTILE = [
    [1, -1],
    [1, 500],
    [70_000],
    [2**31],
    [2**63],
    [2**70],
    [1.0],
    [1, 2.5],
    [float("nan")],
    np.array([1.0]),
    [True, False],
    np.array([True]),
    [[1, 2]],
    [[1], [2, 3]],
    [None],
    ["1"],
    "12",
    b"12",
    None,
    7,
    {1, 2},
    {1: 2},
    torch.tensor([0.5]),
    torch.tensor([[1]]),
    iter([1, 2.5]),
    object(),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ids", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_ids_change_nothing(name: str, ids: Any) -> None:
    window = ContextWindowFactory.create_window(name, vocab_size=500)
    window.add_tokens([3, 4])
    before = copy.deepcopy(window)
    with pytest.raises(InputError):
        window.add_tokens(copy.copy(ids))
    assert window == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [0, -1, 1.5, float("nan"), True, "8", [4]], ids=repr)
def test_every_size_is_checked(name: str, bad: Any) -> None:
    sizes = {
        "simple": ("max_length",),
        "sliding": ("window_size", "stride"),
        "hierarchical": ("local_size", "global_size", "block"),
        "memory_efficient": ("max_length", "chunk_size"),
    }
    for size in (*sizes[name], "vocab_size"):
        with pytest.raises(InputError, match=size):
            ContextWindowFactory.create_window(name, **{size: bad})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("vocab_size", "dtype"),
    [(1, "uint8"), (256, "uint8"), (257, "uint16"), (65_536, "uint16"), (65_537, "int32")],
)
def test_the_smallest_dtype_that_holds_the_vocabulary(
    name: str, vocab_size: int, dtype: str
) -> None:
    window = ContextWindowFactory.create_window(name, vocab_size=vocab_size)
    window.add_tokens([0, vocab_size - 1])
    assert window.ids.tolist() == [0, vocab_size - 1]
    assert window.ids.dtype == dtype
    with pytest.raises(InputError, match=f"from {vocab_size} to {vocab_size}"):
        window.add_tokens([vocab_size])


@pytest.mark.parametrize("name", NAMES)
def test_a_vocabulary_beyond_32_bits(name: str) -> None:
    window = ContextWindowFactory.create_window(name, vocab_size=2**40)
    window.add_tokens([2**40 - 1])
    assert window.ids.tolist() == [2**40 - 1]


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_bounded_and_counted(name: str) -> None:
    window = ContextWindowFactory.create_window(name, vocab_size=1000)
    assert window.nbytes < 4096
    if isinstance(window, SlidingWindow):
        for _ in window.feed(range(1000) for _ in range(0)):
            pass
        for _ in range(200):
            list(window.feed(range(1000)))
        # At most twice the visible tokens and a new block, and the same for documents.
        assert window.nbytes <= 2 * 2 * (512 + 2 * 1000) + 400
    else:
        for _ in range(200):
            window.add_tokens(range(1000))
        assert window.nbytes <= 2 * 2 * window.policy.capacity + 100  # type: ignore[union-attr]
    assert window.seen == 200_000


@pytest.mark.parametrize("name", NAMES)
def test_the_representation_says_what_there_is(name: str) -> None:
    window = ContextWindowFactory.create_window(name, vocab_size=50_000)
    window.add_tokens(range(10_000))
    text = repr(window)
    assert type(window).__name__ in text
    assert "vocab_size=50000" in text
    assert f"{len(window):,} of 10,000 tokens" in text
    assert f"{window.nbytes:,} bytes" in text
    assert len(text) < 160


@pytest.mark.parametrize("name", NAMES)
def test_states_of_different_settings_or_types_differ(name: str) -> None:
    window = ContextWindowFactory.create_window(name)
    assert window != ContextWindowFactory.create_window(name, vocab_size=9)
    assert window != "a window"
    for other in NAMES:
        assert (window == ContextWindowFactory.create_window(other)) is (other == name)
    with pytest.raises(TypeError, match="unhashable"):
        hash(window)


@given(st.integers(1, 12), st.integers(0, 11), texts())
def test_the_guides_context_window(size: int, pinned: int, text: Any) -> None:
    _, pieces = text
    if pinned >= size:
        with pytest.raises(TransomError, match="pinned"):
            ContextWindow(size, pinned=pinned)
        return
    window, tokens = ContextWindow(size, pinned=pinned), []
    for piece in pieces:
        window.add_tokens(piece)
        tokens.extend(piece)
        if len(tokens) > size:
            tokens = tokens[:pinned] + tokens[len(tokens) - size + pinned :]
    shown, mask = window.get_context()
    assert shown.tolist() == tokens
    assert mask.tolist() == [1] * len(tokens)
    assert mask.dtype == np.uint8


@pytest.mark.parametrize("kind", [SlidingWindow, HierarchicalContext, MemoryEfficientContext])
def test_a_misspelt_keyword_is_named(kind):
    with pytest.raises(InputError, match=r"has no parameter 'vocab_sise'; did you mean 'vocab_s"):
        kind(vocab_sise=9)

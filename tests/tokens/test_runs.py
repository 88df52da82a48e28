"""Ids in several arrays are read as if they were in one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transom.tokens import TokenRuns

DTYPES = ("uint8", "uint16", "int32", "int64")


@st.composite
def runs(draw: Any) -> tuple[np.ndarray, TokenRuns]:
    """All ids in one array, and the same ids in several arrays in any order in memory."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    lengths = draw(st.lists(st.integers(0, 12), max_size=6))
    ids = (np.arange(sum(lengths)) + 1).astype(dtype)
    pieces = np.split(ids, np.cumsum(lengths)[:-1]) if lengths else []
    order = draw(st.permutations(range(len(pieces))))
    copies = {at: pieces[at].copy() for at in order}  # allocated in this order
    return ids, TokenRuns([copies[at] for at in range(len(pieces))], dtype)


@given(runs(), st.data())
def test_reading(case: tuple[np.ndarray, TokenRuns], data: Any) -> None:
    ids, tokens = case
    assert len(tokens) == len(ids)
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(ids))] * 2)))
    read = tokens.read(start, stop)
    assert read.dtype == ids.dtype
    assert read.tolist() == ids[start:stop].tolist()


@given(runs(), st.integers(1, 9), st.lists(st.integers(-3, 60)))
def test_gathering_writes_stretches_in_one_array_and_names_the_others(
    case: tuple[np.ndarray, TokenRuns], length: int, where: list[int]
) -> None:
    ids, tokens = case
    where = [at for at in where if at <= len(ids)] if len(ids) else []
    out = np.zeros((len(where), length), dtype=np.int64)
    left_out = tokens.gather(np.array(where, dtype=np.int64), length, out)
    names = [] if left_out is None else left_out.tolist()
    for row, start in enumerate(where):
        if row in names:
            assert out[row].tolist() == [0] * length
        else:
            assert out[row].tolist() == ids[start : start + length].tolist()
    single = TokenRuns([ids], ids.dtype)
    torn = single.gather(np.array(where, dtype=np.int64), length, out)
    expected = [row for row, at in enumerate(where) if at < 0 or at + length > len(ids)]
    assert ([] if torn is None else torn.tolist()) == expected


@given(runs(), st.integers(1, 5), st.integers(1, 9), st.data())
def test_strided_views(
    case: tuple[np.ndarray, TokenRuns], stride: int, length: int, data: Any
) -> None:
    ids, tokens = case
    start = data.draw(st.integers(0, len(ids)))
    stop = data.draw(st.integers(start + 1, len(ids) + 1))
    view = tokens.strided(start, stop, stride, length)
    whole = TokenRuns([ids], ids.dtype).strided(start, stop, stride, length)
    wanted = [ids[at : at + length].tolist() for at in range(start, stop, stride)]
    if view is not None:
        assert view.tolist() == wanted
        assert not view.flags.writeable
    assert (whole is None) == any(len(stretch) < length for stretch in wanted)


def test_a_stretch_in_one_array_is_a_view() -> None:
    arrays = [np.arange(4), np.arange(4, 8)]
    tokens = TokenRuns(arrays, np.dtype(np.int64))
    assert np.shares_memory(tokens.read(5, 7), arrays[1])
    joined = tokens.read(3, 5)
    assert joined.tolist() == [3, 4]
    with pytest.raises(ValueError, match="read-only"):
        joined[0] = 0

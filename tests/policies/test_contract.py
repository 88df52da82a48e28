"""What every policy must do, whoever wrote it. A new built-in policy is tested by being known."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transom.errors import PolicyError
from transom.policies import Chunked, Full, Policy, Sinks, Span, Window, known, parse

SIZES = st.integers(1, 40)


@st.composite
def policies(draw: Any) -> Policy:
    """A policy of any known kind, small enough to enumerate."""
    kind = draw(st.sampled_from(sorted(known())))
    values = [draw(SIZES) for _ in dataclasses.fields(known()[kind])]
    if kind == "chunked":
        values.sort(reverse=True)
    return known()[kind](*values)


def visible_set(policy: Policy, q: int) -> list[int]:
    return [k for k in range(q + 1) if policy.visible(q, k)]


@given(policies(), st.integers(0, 120))
def test_a_query_sees_itself_and_nothing_later(policy: Policy, q: int) -> None:
    assert policy.visible(q, q)
    assert not policy.visible(q, q + 1)


@given(policies(), st.integers(0, 120))
def test_spans_are_the_visible_positions(policy: Policy, seen: int) -> None:
    spans = policy.spans(seen)
    listed = [k for span in spans for k in range(span.start, span.stop)]
    assert listed == (visible_set(policy, seen - 1) if seen else [])
    assert all(len(span) > 0 for span in spans)
    assert len(spans) <= 3
    assert policy.kept(seen) == len(listed)


@given(policies(), st.integers(0, 120))
def test_capacity_is_reached_and_never_exceeded(policy: Policy, q: int) -> None:
    if policy.capacity is None:
        assert policy.kept(q + 1) == q + 1
        return
    assert len(visible_set(policy, q)) <= policy.capacity
    assert policy.kept(policy.capacity) == policy.capacity


@given(policies(), st.integers(0, 120))
def test_what_is_evicted_stays_evicted(policy: Policy, q: int) -> None:
    assert set(visible_set(policy, q + 1)) <= {*visible_set(policy, q), q + 1}


@given(policies(), st.integers(0, 120))
def test_pinned_tokens_are_always_visible(policy: Policy, q: int) -> None:
    assert all(policy.visible(q, k) for k in range(min(policy.pinned, q + 1)))


@given(policies(), st.integers(0, 120))
def test_gap_counts_the_evicted(policy: Policy, q: int) -> None:
    assert policy.gap(q) == q + 1 - len(visible_set(policy, q))


@given(policies())
def test_arithmetic_is_the_same_on_arrays_and_tensors(policy: Policy) -> None:
    torch = pytest.importorskip("torch", reason="tensors need torch")
    q, k = np.arange(70)[:, None], np.arange(70)[None]
    one_by_one = [[bool(policy.visible(i, j)) for j in range(70)] for i in range(70)]
    assert policy.visible(q, k).tolist() == one_by_one
    assert policy.visible(torch.tensor(q), torch.tensor(k)).tolist() == one_by_one
    assert policy.gap(q[:, 0]).tolist() == [policy.gap(i) for i in range(70)]


@given(policies())
def test_text_round_trip(policy: Policy) -> None:
    assert parse(str(policy)) == policy
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert hash(parse(str(policy))) == hash(policy)


@given(policies())
def test_frozen(policy: Policy) -> None:
    for field in dataclasses.fields(policy):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(policy, field.name, 3)


@pytest.mark.parametrize("name", sorted(known()))
def test_every_parameter_is_checked_and_described(name: str) -> None:
    kind = known()[name]
    assert kind.summary
    assert parse(name) == kind()
    for field in dataclasses.fields(kind):
        for bad in (0, -1, 1.5, True, "8", None):
            with pytest.raises(PolicyError, match=field.name.rstrip("_")):
                kind(**{field.name: bad})


def test_exact_boundaries() -> None:
    assert Window(4).spans(4) == (Span(0, 4),)
    assert Window(4).spans(5) == (Span(1, 5),)
    assert Sinks(2, window=3).spans(5) == (Span(0, 5),)
    assert Sinks(2, window=3).spans(6) == (Span(0, 2), Span(3, 6))
    assert Chunked(8, chunk=4).spans(8) == (Span(0, 8),)
    assert Chunked(8, chunk=4).spans(9) == (Span(4, 9),)
    assert Chunked(7, chunk=4).spans(8) == (Span(4, 8),)
    assert Full().spans(0) == ()


def test_a_chunk_must_fit() -> None:
    with pytest.raises(PolicyError, match="chunk is 9 and max_length 8"):
        Chunked(8, chunk=9)

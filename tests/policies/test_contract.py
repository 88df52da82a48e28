"""What every policy must do. The suite runs over every known policy, so also over new ones."""

from __future__ import annotations

import dataclasses
import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import transom
from tests.helpers.policy_examples import examples
from tests.helpers.policy_strategies import policies, recalling, scored_policies
from transom.errors import PolicyError
from transom.policies import (
    Chunked,
    Full,
    ModelShape,
    Policy,
    Positional,
    Scored,
    Sinks,
    Span,
    Window,
    known,
    kv_bytes_bound,
    parse,
)
from transom.units import to_bytes

SCORED = sorted(name for name, kind in known().items() if issubclass(kind, Scored))


def visible_set(policy: Positional, q: int) -> list[int]:
    return [k for k in range(q + 1) if policy.visible(q, k)]


@given(policies() | recalling(), st.integers(0, 120))
def test_a_query_sees_itself_and_nothing_later(policy: Positional, q: int) -> None:
    assert policy.visible(q, q)
    assert not policy.visible(q, q + 1)


@given(policies() | recalling(), st.integers(0, 120))
def test_spans_are_the_visible_positions(policy: Positional, seen: int) -> None:
    spans = policy.spans(seen)
    listed = [k for span in spans for k in range(span.start, span.stop)]
    assert listed == (visible_set(policy, seen - 1) if seen else [])
    assert all(len(span) > 0 for span in spans)
    assert len(spans) <= 3
    assert policy.kept(seen) == len(listed)


@given(policies(), st.integers(0, 120))
def test_capacity_is_reached_and_never_exceeded(policy: Positional, q: int) -> None:
    if policy.capacity is None:
        assert policy.kept(q + 1) == q + 1
        return
    assert len(visible_set(policy, q)) <= policy.capacity
    assert policy.kept(policy.capacity) == policy.capacity


@given(policies() | recalling(), st.integers(0, 120))
def test_what_is_evicted_stays_evicted(policy: Positional, q: int) -> None:
    assert set(visible_set(policy, q + 1)) <= {*visible_set(policy, q), q + 1}


@given(policies() | recalling(), st.integers(0, 120))
def test_pinned_tokens_are_always_visible(policy: Positional, q: int) -> None:
    assert all(policy.visible(q, k) for k in range(min(policy.pinned, q + 1)))


@given(policies() | recalling(), st.integers(0, 120))
def test_gap_counts_the_evicted(policy: Positional, q: int) -> None:
    assert policy.gap(q) == q + 1 - len(visible_set(policy, q))


@given(policies() | recalling())
@settings(deadline=None)  # the first example imports torch
def test_arithmetic_is_the_same_on_arrays_and_tensors(policy: Positional) -> None:
    torch = pytest.importorskip("torch", reason="tensors need torch")
    q, k = np.arange(70)[:, None], np.arange(70)[None]
    one_by_one = [[bool(policy.visible(i, j)) for j in range(70)] for i in range(70)]
    assert policy.visible(q, k).tolist() == one_by_one
    assert policy.visible(torch.tensor(q), torch.tensor(k)).tolist() == one_by_one
    assert policy.gap(q[:, 0]).tolist() == [policy.gap(i) for i in range(70)]


@given(scored_policies(), st.integers(0, 200))
def test_heads_fill_up_and_then_evict(policy: Scored, seen: int) -> None:
    """The closed form `filled`, compared with a count token by token."""
    held = 0
    for _ in range(seen):
        held = held - policy.round + 1 if held == policy.tokens else held + 1
        assert held <= policy.capacity
    assert policy.filled(seen) == policy.kept(seen) == held


@given(scored_policies(), st.integers(1, 40))
def test_layers_share_the_budget(policy: Scored, layers: int) -> None:
    sizes = [layer.tokens for layer in policy.by_layer(layers)]
    assert sum(sizes) == layers * policy.tokens
    assert all(lower + 1 >= upper for lower, upper in pairwise(sizes))
    if policy.layers == "equal":
        assert len(set(sizes)) <= 1


@pytest.mark.parametrize("name", SCORED)
@pytest.mark.parametrize("size", ["1MiB", "1.5 MB", "30KB"])
def test_a_budget_in_bytes_is_used_and_kept(name: str, size: str) -> None:
    shape = ModelShape(layers=3, heads=4, kv_heads=2, head_dim=8)
    policy: Any = parse(f"{name}:{size}")
    with pytest.raises(PolicyError, match="in bytes"):
        assert policy.capacity
    made = policy.on(shape)
    budget = to_bytes(size)
    assert kv_bytes_bound(made, shape) <= budget  # type: ignore[operator]
    larger = dataclasses.replace(made, size=made.tokens + 1)
    assert kv_bytes_bound(larger, shape) > budget  # type: ignore[operator]
    assert kv_bytes_bound(policy, shape) == kv_bytes_bound(made, shape)


def test_a_budget_too_small_is_refused() -> None:
    with pytest.raises(PolicyError, match="do not fit"):
        parse("tova:1KB").on(ModelShape(layers=3, heads=4, kv_heads=2, head_dim=8))
    for bad in ("8", "8 XB", "0MB", "MiB"):
        with pytest.raises(PolicyError, match="expected"):
            parse(f"tova:{bad}") if bad != "8" else known()["tova"](bad)  # type: ignore[call-arg]


@given(st.one_of(policies(), scored_policies()))
def test_text_round_trip(policy: Policy) -> None:
    assert parse(str(policy)) == policy
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert hash(parse(str(policy))) == hash(policy)


@given(st.one_of(policies(), scored_policies()))
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
            if (field.default is None and bad is None) or (field.name == "sinks" and bad == 0):
                continue
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


def test_precision_is_checked_and_spelled() -> None:
    assert str(Sinks(4, 8, kv="int8")) == "sinks:4,window=8,kv=int8"
    assert str(Full(kv="int4")) == "full:kv=int4"
    assert parse("full:kv=int4") == Full(kv="int4") != Full()
    assert repr(Window(4)) == "Window(size=4)"
    assert repr(Window(4, kv="int8")) == "Window(size=4, kv='int8')"
    with pytest.raises(PolicyError, match="kv is 'int3'; expected one of auto, int8, int4"):
        parse("window:4,kv=int3")


def test_invalid_values_of_heads_and_layers_are_refused() -> None:
    with pytest.raises(PolicyError, match="tova keeps the same tokens in every head"):
        parse("tova:64,heads=adaptive")
    with pytest.raises(PolicyError, match="expected one of equal, pyramid"):
        parse("snapkv:64,layers=cone")


def test_a_chunk_must_fit() -> None:
    with pytest.raises(PolicyError, match="chunk is 9 and max_length 8"):
        Chunked(8, chunk=9)


def test_every_policy_has_an_example() -> None:
    """Otherwise a suite that runs over the examples would miss a policy."""
    assert {text.partition(":")[0] for text in examples()} == set(known())
    assert all(str(parse(text)) == text for text in examples())


@pytest.mark.parametrize("name", sorted(known()))
def test_what_is_built_in_is_exported(name: str) -> None:
    kind = known()[name]
    if not kind.__module__.startswith("transom.policies."):
        pytest.skip("registered by another package")
    for module in (transom, transom.policies):
        assert kind.__name__ in module.__all__
        assert getattr(module, kind.__name__) is kind


def test_the_bases_of_policies_are_exported() -> None:
    for name in ("Policy", "Positional", "Scored", "parse"):
        assert name in transom.__all__
        assert getattr(transom, name) is getattr(transom.policies, name)

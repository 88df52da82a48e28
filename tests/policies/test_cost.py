from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.policy_strategies import policies, recalling, scored_policies
from transom.errors import UnsupportedModelError
from transom.policies import (
    Full,
    Hierarchical,
    ModelShape,
    Policy,
    Positional,
    Scored,
    Sinks,
    Window,
    attention_flops,
    kv_bytes,
    kv_bytes_bound,
)

SHAPE = ModelShape(layers=2, heads=4, kv_heads=2, head_dim=8)


@given(policies(), st.integers(0, 60), st.integers(0, 60))
def test_flops_count_every_visible_pair(policy: Positional, start: int, more: int) -> None:
    stop = start + more
    pairs = sum(policy.visible(q, k) for q in range(start, stop) for k in range(q + 1))
    expected = pairs * SHAPE.layers * SHAPE.heads * 4 * SHAPE.head_dim
    assert attention_flops(policy, SHAPE, stop, start) == expected


@given(policies() | scored_policies(), st.integers(0, 90), st.integers(0, 60))
def test_pairs_in_closed_form_are_those_counted_one_by_one(
    policy: Policy, start: int, more: int
) -> None:
    """`Policy.visible_pairs` counts query by query, and is the reference for closed forms."""
    pairs = policy.visible_pairs(start, start + more)
    assert type(pairs) is int
    assert pairs == Policy.visible_pairs(policy, start, start + more)
    assert policy.visible_pairs(start, start - 1) == 0
    expected = pairs * SHAPE.layers * SHAPE.heads * 4 * SHAPE.head_dim
    assert attention_flops(policy, SHAPE, start + more, start) == expected


@given(recalling(), st.integers(0, 150))
def test_pairs_under_recall(policy: Hierarchical, q: int) -> None:
    """A query sees the first block, recalled blocks, local blocks and the unfinished block."""
    block = policy.block_size
    begun = q % block + 1
    most = policy.local + (1 + policy.recalled) * block + begun
    assert policy.visible_pairs(q, q + 1) == min(q + 1, most)


@given(st.one_of(policies(), scored_policies()), st.integers(0, 200))
def test_bytes_never_exceed_the_bound(policy: Policy, seen: int) -> None:
    bound = kv_bytes_bound(policy, SHAPE, batch=3)
    if policy.capacity is None:
        assert bound is None
        if policy.kv == "auto":
            assert kv_bytes(policy, SHAPE, seen) == seen * SHAPE.token_bytes
    else:
        assert bound is not None
        assert kv_bytes(policy, SHAPE, seen, batch=3) <= bound
        if not isinstance(policy, Scored) or policy.layers == "equal":
            assert kv_bytes(policy, SHAPE, policy.capacity, batch=3) == bound


def test_by_hand() -> None:
    # 30 layers, 3 kv heads of 64, keys and values in float32: 46,080 bytes per token.
    shape = ModelShape(layers=30, heads=9, kv_heads=3, head_dim=64)
    assert shape.token_bytes == 46_080
    assert kv_bytes(Full(), shape, 8192) == 377_487_360
    assert kv_bytes_bound(Window(1024), shape) == 47_185_920
    assert kv_bytes_bound(Sinks(4, 1020), shape) == 47_185_920 + 4 * 30 * 3 * 64 * 4


def test_shape_from_config() -> None:
    config = SimpleNamespace(
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=3,
        hidden_size=32,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
    )
    assert ModelShape.from_config(config, itemsize=2) == ModelShape(2, 4, 2, 8, itemsize=2)


def test_a_config_without_sizes_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="num_attention_heads"):
        ModelShape.from_config(SimpleNamespace())

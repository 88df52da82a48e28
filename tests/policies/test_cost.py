from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.policies.test_contract import policies, scored_policies
from transom.errors import UnsupportedModelError
from transom.policies import (
    Full,
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


@given(scored_policies(), st.integers(0, 90), st.integers(0, 60))
def test_flops_of_heads_that_turn_over(policy: Scored, start: int, more: int) -> None:
    pairs = sum(policy.filled(seen + 1) for seen in range(start, start + more))
    expected = pairs * SHAPE.layers * SHAPE.heads * 4 * SHAPE.head_dim
    assert attention_flops(policy, SHAPE, start + more, start) == expected


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
    # 30 layers, 3 kv heads of 64, keys and values in float32: 46,080 bytes a token.
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

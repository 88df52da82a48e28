"""A kind of policy that transom does not have: it computes its cost, and a cache refuses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from tests.helpers.models import chunked_logits, tiny, tokens
from transom.errors import PolicyError
from transom.kv import BoundedCache, build
from transom.policies import ModelShape, Policy, Window, attention_flops, kv_bytes, kv_bytes_bound

SHAPE = ModelShape(layers=2, heads=4, kv_heads=2, head_dim=8)


@dataclass(frozen=True)
class Doubling(Policy):
    """The newest token, and those 1, 2, 4, 8 and so on positions before it."""

    steps: int = 4
    name: ClassVar[str] = "doubling"
    summary: ClassVar[str] = "keeps tokens at doubling distances"

    @property
    def capacity(self) -> int:
        return self.steps + 1

    def kept(self, seen: int) -> int:
        return min(seen, 1) + sum(2**step < seen for step in range(self.steps))

    @property
    def decides_by(self) -> str:
        return "distance"


@dataclass(frozen=True)
class OtherWindow(Window):
    name: ClassVar[str] = "other-window"

    @property
    def decides_by(self) -> str:
        return "distance"


def test_a_new_kind_of_policy_has_a_cost() -> None:
    policy = Doubling(4)
    assert [policy.kept(seen) for seen in (0, 1, 2, 3, 5, 9, 100)] == [0, 1, 2, 3, 4, 5, 5]
    token = 2 * 2 * 2 * 8 * 4  # layers, kv heads, keys and values, dimensions, bytes
    assert kv_bytes(policy, SHAPE, 0) == 0
    assert kv_bytes(policy, SHAPE, 3, batch=3) == 9 * token
    assert kv_bytes_bound(policy, SHAPE) == 5 * token
    pairs = 1 + 2 + 3 + 3 + 4
    assert attention_flops(policy, SHAPE, 5) == 4 * pairs * 2 * 4 * 8
    # 5 tokens of 16 numbers in 8 bits, with scales and offsets; 5 + 4 exact ones; the channels.
    head = 5 * (16 + 2 * 4) + 9 * 16 * 4 + 2 * 8 * 4
    assert kv_bytes_bound(Doubling(4, kv="int8"), SHAPE) == 2 * 2 * head


def test_a_cache_refuses_a_kind_that_it_cannot_hold() -> None:
    model = tiny("llama")
    with pytest.raises(PolicyError, match="'distance'; expected one of position, score, recall"):
        BoundedCache(Doubling(4), config=model.config)


def test_a_cache_for_a_new_kind_needs_one_line_in_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kinds = {**build.KINDS, "distance": build.KINDS["position"]}
    monkeypatch.setattr(build, "KINDS", kinds)
    model, ids = tiny("llama"), tokens(1, 40)
    mine, window = (BoundedCache(x, config=model.config) for x in (OtherWindow(9), Window(9)))
    logits = [chunked_logits(model, ids, cache, [7] * 5 + [5]) for cache in (mine, window)]
    assert bool((logits[0] == logits[1]).all())
    assert (
        mine.nbytes
        == window.nbytes
        == kv_bytes_bound(Window(9), ModelShape.from_config(model.config))
    )

"""From a policy to what holds it: a planner, and a layer for each that the policy applies to.

One function for each kind of policy, by what `Policy.decides_by` says. A policy of a kind that is
here needs nothing in this room; a new kind needs its layer, and its line in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from transom.attention.rotary import Rotary, rope_type, rotary_of
from transom.attention.trial import ModelTrial
from transom.errors import PolicyError
from transom.kv.bounded_layer import BoundedLayer
from transom.kv.cache_layer import CacheLayer
from transom.kv.fits import check_attends_once, head_dim_of
from transom.kv.headwise_planner import HeadwisePlanner
from transom.kv.planner import Positions
from transom.kv.quantized import QuantizedLayer
from transom.kv.recall import BlockStore, RecallLayer
from transom.kv.scored import ScoredLayer, ScoredPlanner
from transom.kv.slot_planner import SlotPlanner
from transom.policies import Policy

__all__ = ["Asked", "Built", "build"]


class Asked(NamedTuple):
    """What a cache is built for.

    Attributes:
        policy: with sizes in tokens.
        made: what the model does, found by running it without weights.
        indices: of the layers that the policy applies to, ascending.
        positions: as for `BoundedCache`.
        cold: as for `BoundedCache`.
    """

    policy: Any
    made: ModelTrial
    indices: list[int]
    positions: Positions
    cold: Path | str | None


class Built(NamedTuple):
    """What plans a forward pass, and the layers that do as planned."""

    planner: SlotPlanner | HeadwisePlanner[Any]
    layers: list[CacheLayer]


def build(asked: Asked) -> Built:
    """What holds a policy's tokens; nothing is allocated yet.

    Raises:
        UnsupportedModelError: when the model's positions cannot be bounded, or its layers cannot.
        PolicyError: when the policy is of a kind that no cache can hold.
    """
    rotary, layers_without_rope = _rotary(asked)
    given = (asked.positions, rotary, head_dim_of(asked.made, asked.indices), layers_without_rope)
    kind = KINDS.get(asked.policy.decides_by)
    if kind is None:
        raise PolicyError(
            f"{asked.policy!r} decides by {asked.policy.decides_by!r}; expected one of "
            f"{', '.join(KINDS)}. Derive it from transom.policies.Positional or Scored."
        )
    return kind(asked, given)


def _by_position(asked: Asked, given: tuple[Any, ...]) -> Built:
    planner = SlotPlanner(asked.policy, *given)
    kind = BoundedLayer if asked.policy.kv == "auto" else QuantizedLayer
    return Built(planner, [kind(index, planner, last) for index, last in _marked(asked)])


def _by_score(asked: Asked, given: tuple[Any, ...]) -> Built:
    check_attends_once(asked.made, asked.indices, asked.policy)
    planner = ScoredPlanner(asked.policy, *given)
    budgets = asked.policy.by_layer(len(asked.indices))
    return Built(
        planner,
        [
            ScoredLayer(index, budget, planner, last)
            for (index, last), budget in zip(_marked(asked), budgets, strict=True)
        ],
    )


def _by_recall(asked: Asked, given: tuple[Any, ...]) -> Built:
    check_attends_once(asked.made, asked.indices, asked.policy)
    planner: HeadwisePlanner[Any] = HeadwisePlanner(asked.policy, *given)
    store = BlockStore(asked.cold)
    return Built(
        planner,
        [RecallLayer(index, asked.policy, planner, last, store) for index, last in _marked(asked)],
    )


KINDS: Mapping[str, Callable[[Asked, tuple[Any, ...]], Built]] = {
    "position": _by_position,
    "score": _by_score,
    "recall": _by_recall,
}


def _marked(asked: Asked) -> list[tuple[int, bool]]:
    """The indices, and whether each is the last: the layer that ends a forward pass."""
    return [(index, index == asked.indices[-1]) for index in asked.indices]


def _rotary(asked: Asked) -> tuple[Rotary | None, frozenset[int]]:
    """How keys are turned, and in which layers they are not; None where nothing ever is."""
    policy: Policy = asked.policy
    if policy.capacity is None and (policy.kv == "auto" or rope_type(asked.made.config) is None):
        return None, frozenset()
    found = rotary_of(asked.made, asked.indices)
    rotary = next((one for one in found.values() if one is not None), None)
    return rotary, frozenset(index for index, one in found.items() if one is None)

"""Builds what a policy needs: a planner, and one cache layer per layer that it applies to.

There is one function per kind of policy, found by `Policy.decides_by`. A new policy of a known kind
needs no change here; a new kind needs a layer class, and a line in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from transom.attention.rope_type import rope_type
from transom.attention.rotary import Rotary, rotary_of
from transom.attention.rotary_by_length import RotaryByLength, rotary_by_length
from transom.attention.trial import ModelTrial
from transom.errors import PolicyError
from transom.kv.bounded_layer import BoundedLayer
from transom.kv.cache_layer import CacheLayer
from transom.kv.headwise_planner import HeadwisePlanner
from transom.kv.latent_layer import LatentLayer, QuantizedLatentLayer
from transom.kv.planner import Positions
from transom.kv.quantized_layer import QuantizedLayer
from transom.kv.recall import BlockStore, RecallLayer
from transom.kv.scored import ScoredLayer, ScoredPlanner
from transom.kv.slot_planner import SlotPlanner
from transom.kv.supported_layers import check_attends_once, check_expectation, head_dim_of
from transom.policies import Hierarchical, Policy

__all__ = ["CacheParts", "CachePlanner", "CacheSpec", "build"]


class CacheSpec(NamedTuple):
    """What a cache is built from.

    Attributes:
        policy: with sizes in tokens.
        made: how the model attends, found by running it without weights.
        indices: of the layers that the policy applies to, ascending.
        positions: as for `BoundedCache`.
        cold: as for `BoundedCache`.
    """

    policy: Any
    made: ModelTrial
    indices: list[int]
    positions: Positions
    cold: Path | str | None


CachePlanner: TypeAlias = SlotPlanner | ScoredPlanner | HeadwisePlanner[Hierarchical]


class PlannerInputs(NamedTuple):
    """What every planner needs besides its policy; see `PassPlanner`."""

    positions: Positions
    rotary: Rotary | None
    head_dim: int
    layers_without_rope: frozenset[int]
    own: RotaryByLength | None


class CacheParts(NamedTuple):
    """The planner of a cache, and the layers that follow its plans."""

    planner: CachePlanner
    layers: list[CacheLayer]


def build(spec: CacheSpec) -> CacheParts:
    """Build planner and layers for a policy; nothing is allocated yet.

    Raises:
        UnsupportedModelError: when the model's positions or layers cannot be bounded.
        PolicyError: when the policy is of a kind that no cache can hold.
    """
    rotary, layers_without_rope, own = _rotary(spec)
    head_dim = head_dim_of(spec.made, spec.indices)
    given = PlannerInputs(spec.positions, rotary, head_dim, layers_without_rope, own)
    kind = KINDS.get(spec.policy.decides_by)
    if kind is None:
        raise PolicyError(
            f"{spec.policy!r} decides by {spec.policy.decides_by!r}; expected one of "
            f"{', '.join(KINDS)}. Derive it from transom.policies.Positional or Scored."
        )
    return kind(spec, given)


def _by_position(spec: CacheSpec, given: PlannerInputs) -> CacheParts:
    planner = SlotPlanner(spec.policy, *given)
    planner.owners = spec.made.owners(spec.indices)
    exact = spec.policy.kv == "auto"
    plain: type[BoundedLayer] = BoundedLayer if exact else QuantizedLayer
    latent: type[BoundedLayer] = LatentLayer if exact else QuantizedLatentLayer
    if exact and spec.policy.capacity is None:  # nothing is ever rotated
        latent = plain
    kinds = {index: latent if spec.made.layers[index].latent else plain for index in spec.indices}
    return CacheParts(planner, [kinds[at](at, planner, last) for at, last in _marked(spec)])


def _by_score(spec: CacheSpec, given: PlannerInputs) -> CacheParts:
    check_attends_once(spec.made, spec.indices, spec.policy)
    check_expectation(spec.made, spec.indices, spec.policy)
    planner = ScoredPlanner(spec.policy, *given)
    budgets = spec.policy.by_layer(len(spec.indices))
    return CacheParts(
        planner,
        [
            ScoredLayer(index, budget, planner, last)
            for (index, last), budget in zip(_marked(spec), budgets, strict=True)
        ],
    )


def _by_recall(spec: CacheSpec, given: PlannerInputs) -> CacheParts:
    check_attends_once(spec.made, spec.indices, spec.policy)
    planner: HeadwisePlanner[Hierarchical] = HeadwisePlanner(spec.policy, *given)
    store = BlockStore(spec.cold)
    return CacheParts(
        planner,
        [RecallLayer(index, spec.policy, planner, last, store) for index, last in _marked(spec)],
    )


KINDS: Mapping[str, Callable[[CacheSpec, PlannerInputs], CacheParts]] = {
    "position": _by_position,
    "score": _by_score,
    "recall": _by_recall,
}


def _marked(spec: CacheSpec) -> list[tuple[int, bool]]:
    """The indices, and whether each is the last: the layer that ends a forward pass."""
    return [(index, index == spec.indices[-1]) for index in spec.indices]


def _rotary(spec: CacheSpec) -> tuple[Rotary | None, frozenset[int], RotaryByLength | None]:
    """How the model rotates keys, the layers in which it does not, and how lengths change it.

    None if no key ever has to be rotated here.
    """
    policy: Policy = spec.policy
    if policy.capacity is None and (policy.kv == "auto" or rope_type(spec.made.config) is None):
        return None, frozenset(), None
    found = rotary_of(spec.made, spec.indices, any_length=True)
    rotary = next((one for one in found.values() if one is not None), None)
    without = frozenset(index for index, one in found.items() if one is None)
    own = rotary_by_length(spec.made, found)
    if own is not None:
        rotary = own.constant(policy.capacity if spec.positions == "compact" else None)
    return rotary, without, own

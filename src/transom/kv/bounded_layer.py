"""One layer's keys and values, in storage that is allocated once."""

from __future__ import annotations

import torch
from torch import Tensor

from transom.attention.visibility import Visibility
from transom.kv.cache_layer import CacheLayer, zeros
from transom.kv.readable_layer import KeptStates
from transom.kv.slot_plan import SlotPlan
from transom.kv.slot_planner import SlotPlanner

__all__ = ["BoundedLayer"]

GROWTH = 1024  # slots added together where the policy has no bound


class BoundedLayer(CacheLayer):
    """Keys and values of the tokens a policy keeps, `(batch, kv_heads, slots, head_dim)` each.

    Storage is allocated at the first token and, under a bounded policy, never changes its shape
    or address again. `origins` holds the pinned keys as they came, in float32: rotating them to a
    new position always starts from there, so no error adds up.
    """

    planner: SlotPlanner

    @property
    def origins(self) -> Tensor | None:
        """Pinned keys as they came, float32, `(batch, kv_heads, pinned, head_dim)`."""
        return self.tensors.get("origins")

    @property
    def is_croppable(self) -> bool:  # type: ignore[override]
        return self.planner.policy.capacity is None

    def _allocate(self, key_states: Tensor, value_states: Tensor) -> None:
        slots = self.planner.policy.capacity or 0
        self.tensors["keys"] = zeros(key_states, slots, key_states.shape[3])
        self.tensors["values"] = zeros(value_states, slots, value_states.shape[3])
        self._allocate_origins(key_states)

    def _allocate_origins(self, like: Tensor) -> None:
        if pinned := self.planner.policy.pinned:
            self.tensors["origins"] = zeros(like, pinned, like.shape[3], dtype=torch.float32)

    def in_use(self, name: str, seen: int | None) -> int | None:
        policy = self.planner.policy
        return fewest(seen, policy.pinned if name == "origins" else policy.capacity)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store the new keys and values as planned; return all that the new queries may see.

        Mutates the storage. What is returned may be a view of it, valid until the next update.
        """
        plan = self.ready(key_states, value_states)
        key_states = self._corrected(key_states)
        if self.planner.policy.capacity is None:
            self._reserve(max(plan.lengths))

        if plan.in_place:
            self._write(key_states, value_states)
            self._rotate_pinned()
            keys, values = self.tensors["keys"], self.tensors["values"]
            if plan.stored < keys.shape[2]:
                keys, values = keys[:, :, : plan.stored], values[:, :, : plan.stored]
        else:
            keys = torch.cat((*self._stored_keys(plan.stored), key_states), dim=2)
            stored = self.tensors["values"][:, :, : plan.stored]
            values = torch.cat((stored, value_states), dim=2)
            self._write(key_states, value_states)
        if plan.commits:
            self._stored(plan)
        return keys.to(key_states.dtype), values.to(value_states.dtype)

    def _stored(self, plan: SlotPlan) -> None:
        """Record that this layer has done its part of the pass."""
        if isinstance(plan.visible, Visibility) and plan.visible.stored is not None:
            plan.visible.stored.add(self.index)
        if self.last:
            self.planner.commit()

    def _stored_keys(self, stored: int) -> tuple[Tensor, ...]:
        """The kept keys; the pinned ones rotated as they came."""
        keys = self.tensors["keys"]
        if self.origins is None:
            return (keys[:, :, :stored],)
        pinned = min(stored, self.origins.shape[2])
        origins = self.origins[:, :, :pinned].to(self.dtype)
        return origins, keys[:, :, pinned:stored]

    def _write(self, key_states: Tensor, value_states: Tensor) -> None:
        plan = self.planner.plan
        assert plan is not None
        for name, states in (("keys", key_states), ("values", value_states)):
            put(self.tensors[name], states, plan.rows, plan.source, plan.slots)
        self._write_origins(key_states)

    def _write_origins(self, key_states: Tensor) -> None:
        plan = self.planner.plan
        assert plan is not None
        if self.origins is None or not plan.fills_pinned:
            return
        pinned = plan.slots < self.origins.shape[2]
        source = torch.arange(len(plan.slots), device=pinned.device)
        source = source[pinned] if plan.source is None else plan.source[pinned]
        rows = None if plan.rows is None else plan.rows[pinned]
        put(self.origins, key_states.float(), rows, source, plan.slots[pinned])

    def _rotate_pinned(self) -> None:
        plan = self.planner.plan
        assert plan is not None
        rotation = self._rotation_in(plan)
        if rotation is None:
            return
        assert self.origins is not None
        self.tensors["keys"][:, :, : self.origins.shape[2]] = self.origins @ rotation

    def _rotation_in(self, plan: SlotPlan) -> Tensor | None:
        """The rotation of the pinned keys in a pass; None in a layer without RoPE."""
        return None if self.index in self.planner.layers_without_rope else plan.rotation

    def _kept_states(self) -> KeptStates:
        slots = self.planner.kept_slots().to(self.device)
        found = self._states_for_newest()
        return KeptStates(*(_take_slots(states, slots) for states in found))

    def _states_for_newest(self) -> tuple[Tensor, Tensor]:
        """All slots in use, the pinned keys rotated to where the newest token finds them."""
        stored, values = self.planner.filled, self.tensors["values"]
        pinned, *rest = self._stored_keys(stored)
        rotation = self._pinned_rotation()
        if rest and rotation is not None:
            assert self.origins is not None
            pinned = (self.origins[:, :, : pinned.shape[2]] @ rotation).to(self.dtype)
        return torch.cat((pinned, *rest), dim=2), values[:, :, :stored]

    def _pinned_rotation(self) -> Tensor | None:
        """What the newest token needs, as in `SlotPlan`; None in a layer without RoPE."""
        if self.index in self.planner.layers_without_rope:
            return None
        rotation = self.planner.rotation_of_pinned()
        return None if rotation is None else rotation.to(self.device)

    def rebase(self, by: int) -> None:
        """Rotate the kept keys that are not pinned back by `by` positions, in place."""
        if not self.is_initialized or self.index in self.planner.layers_without_rope:
            return
        self.own()
        rotary = self.planner.rotary
        assert rotary is not None
        matrix = rotary.matrix(torch.tensor(-by, device="cpu"), self.planner.head_dim).to(
            self.device
        )
        keys = self.tensors["keys"][:, :, self.planner.policy.pinned :]
        keys.copy_(keys.float() @ matrix)

    def _reserve(self, length: int) -> None:
        for name in ("keys", "values"):
            self.tensors[name] = grown(self.tensors[name], length)


def fewest(seen: int | None, slots: int | None) -> int | None:
    """The smaller of tokens seen and slots there are; None stands for no limit."""
    return min((x for x in (seen, slots) if x is not None), default=None)


def put(
    storage: Tensor, states: Tensor, rows: Tensor | None, source: Tensor | None, slots: Tensor
) -> None:
    """Write `states` into slots of `storage`; for the indices see `SlotPlan`."""
    states = states.to(storage.dtype)
    if rows is not None:
        storage[rows, :, slots] = states[rows, :, source]
    else:
        storage.index_copy_(2, slots, states if source is None else states[:, :, source])


def _take_slots(states: Tensor, slots: Tensor) -> Tensor:
    """Slots `(rows, kept)` of `(batch, kv_heads, slots, dim)`, in that order; zeros for -1."""
    where = slots[:, None, :, None]
    taken = states.gather(2, where.clamp(min=0).expand(*states.shape[:2], -1, states.shape[3]))
    return taken.masked_fill(where < 0, 0)


def grown(tensor: Tensor, slots: int) -> Tensor:
    """Storage with at least `slots` slots: the same tensor if it has them, or a larger copy."""
    if slots <= tensor.shape[2]:
        return tensor
    room = -(-slots // GROWTH) * GROWTH
    larger = tensor.new_zeros((*tensor.shape[:2], room, tensor.shape[3]))
    larger[:, :, : tensor.shape[2]] = tensor
    return larger

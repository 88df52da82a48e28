"""One layer's keys and values, in storage that is allocated once."""

from __future__ import annotations

import torch
from torch import Tensor

from transom.attention.visibility import Visibility
from transom.kv.cache_layer import CacheLayer, zeros
from transom.kv.slot_planner import SlotPlan, SlotPlanner

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

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate for the batch, heads, dtype and device of the first keys and values."""
        slots = self.planner.policy.capacity or 0
        self.keys = zeros(key_states, slots, key_states.shape[3])
        self.values = zeros(value_states, slots, value_states.shape[3])
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
        assert self.keys is not None and self.values is not None
        if self.planner.policy.capacity is None:
            self._reserve(max(plan.lengths))

        if plan.in_place:
            self._write(key_states, value_states)
            self._rotate_pinned()
            keys, values = self.keys, self.values
            if plan.stored < keys.shape[2]:
                keys, values = keys[:, :, : plan.stored], values[:, :, : plan.stored]
        else:
            keys = torch.cat((*self._stored_keys(plan.stored), key_states), dim=2)
            values = torch.cat((self.values[:, :, : plan.stored], value_states), dim=2)
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
        assert self.keys is not None
        if self.origins is None:
            return (self.keys[:, :, :stored],)
        pinned = min(stored, self.origins.shape[2])
        origins = self.origins[:, :, :pinned].to(self.dtype)
        return origins, self.keys[:, :, pinned:stored]

    def _write(self, key_states: Tensor, value_states: Tensor) -> None:
        plan = self.planner.plan
        assert plan is not None
        targets = [(self.keys, key_states), (self.values, value_states)]
        for storage, states in targets:
            assert storage is not None
            put(storage, states, plan.rows, plan.source, plan.slots)
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
        assert plan is not None and self.keys is not None
        if plan.rotation is None or self.index in self.planner.layers_without_rope:
            return
        assert self.origins is not None
        self.keys[:, :, : self.origins.shape[2]] = self.origins @ plan.rotation

    def rebase(self, by: int) -> None:
        """Rotate the kept keys that are not pinned back by `by` positions, in place."""
        if not self.is_initialized or self.index in self.planner.layers_without_rope:
            return
        self.own()
        rotary = self.planner.rotary
        assert self.keys is not None and rotary is not None
        matrix = rotary.matrix(torch.tensor(-by, device="cpu"), self.planner.head_dim).to(
            self.device
        )
        keys = self.keys[:, :, self.planner.policy.pinned :]
        keys.copy_(keys.float() @ matrix)

    def _reserve(self, length: int) -> None:
        assert self.keys is not None and self.values is not None
        self.keys, self.values = grown(self.keys, length), grown(self.values, length)


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


def grown(tensor: Tensor, slots: int) -> Tensor:
    """Storage with at least `slots` slots: the same tensor if it has them, or a larger copy."""
    if slots <= tensor.shape[2]:
        return tensor
    room = -(-slots // GROWTH) * GROWTH
    larger = tensor.new_zeros((*tensor.shape[:2], room, tensor.shape[3]))
    larger[:, :, : tensor.shape[2]] = tensor
    return larger

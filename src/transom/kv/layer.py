"""One layer's keys and values, in storage that is allocated once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from transom.attention.huggingface import PlannedOffset, Planner
from transom.errors import CacheError
from transom.kv.slots import Slots

__all__ = ["BoundedLayer"]

GROWTH = 1024  # slots added at a time where the policy has no bound


class BoundedLayer(CacheLayerMixin):
    """Keys and values of the tokens a policy keeps, `(batch, kv_heads, slots, head_dim)` each.

    Storage is allocated at the first token and, under a bounded policy, never changes its shape
    or address again. `origins` holds the pinned keys as they came, in float32, so that turning
    them to a new position always starts from there and no error adds up.
    """

    def __init__(self, index: int, slots: Slots, planner: Planner, last: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.index = index
        self.slots = slots
        self.planner = planner
        self.last = last
        self.origins: Tensor | None = None

    @property
    def is_croppable(self) -> bool:  # type: ignore[override]
        return self.slots.policy.capacity is None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate for the batch, heads, dtype and device of the first keys and values."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.batch_size = key_states.shape[0]
        capacity = self.slots.policy.capacity or 0
        # Zeros rather than uninitialised: an empty slot is masked, but 0 * NaN is still NaN.
        self.keys = key_states.new_zeros((*key_states.shape[:2], capacity, key_states.shape[3]))
        self.values = value_states.new_zeros(
            (*value_states.shape[:2], capacity, value_states.shape[3])
        )
        if pinned := self.slots.policy.pinned:
            shape = (*key_states.shape[:2], pinned, key_states.shape[3])
            self.origins = torch.zeros(shape, dtype=torch.float32, device=self.device)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store the new keys and values as planned; return all that the new queries may see.

        Mutates the storage. What is returned may be a view of it, valid until the next update.
        """
        plan = self.slots.plan
        if plan is None:
            raise CacheError(
                "this model does not run transom's attention, so the policy would not be applied. "
                "Build the cache with the model's own config, BoundedCache(policy, "
                "config=model.config), after any set_attn_implementation; and pass a 2-D "
                "attention_mask or none."
            )
        if not self.is_initialized or self.batch_size != key_states.shape[0]:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        if self.slots.policy.capacity is None:
            self._reserve(max(plan.lengths))

        if plan.in_place:
            self._write(key_states, value_states)
            self._turn_pinned()
            keys, values = self.keys, self.values
            if plan.stored < keys.shape[2]:
                keys, values = keys[:, :, : plan.stored], values[:, :, : plan.stored]
        else:
            keys = torch.cat((*self._stored_keys(plan.stored), key_states), dim=2)
            values = torch.cat((self.values[:, :, : plan.stored], value_states), dim=2)
            self._write(key_states, value_states)
        if plan.commits:
            plan.started = True
            if self.last:
                self.slots.commit()
        return keys, values

    def _stored_keys(self, stored: int) -> tuple[Tensor, ...]:
        """The kept keys, the pinned ones at the angles they came with."""
        assert self.keys is not None
        if self.origins is None:
            return (self.keys[:, :, :stored],)
        pinned = min(stored, self.origins.shape[2])
        origins = self.origins[:, :, :pinned].to(self.dtype)
        return origins, self.keys[:, :, pinned:stored]

    def _write(self, key_states: Tensor, value_states: Tensor) -> None:
        plan = self.slots.plan
        assert plan is not None
        targets = [(self.keys, key_states), (self.values, value_states)]
        for storage, states in targets:
            assert storage is not None
            _put(storage, states, plan.rows, plan.source, plan.slots)
        if self.origins is None or not plan.fills_pinned:
            return
        pinned = plan.slots < self.origins.shape[2]
        source = torch.arange(len(plan.slots), device=pinned.device)
        source = source[pinned] if plan.source is None else plan.source[pinned]
        rows = None if plan.rows is None else plan.rows[pinned]
        _put(self.origins, key_states.float(), rows, source, plan.slots[pinned])

    def _turn_pinned(self) -> None:
        plan = self.slots.plan
        assert plan is not None and self.keys is not None
        if plan.turn is None or self.index in self.slots.unturned:
            return
        assert self.origins is not None
        self.keys[:, :, : self.origins.shape[2]] = self.origins @ plan.turn

    def rebase(self, matrix: Tensor) -> None:
        """Turn the kept keys past the pinned ones by `matrix`, in place."""
        if not self.is_initialized or self.index in self.slots.unturned:
            return
        assert self.keys is not None
        keys = self.keys[:, :, self.slots.policy.pinned :]
        keys.copy_(keys.float() @ matrix.to(self.device))

    def _reserve(self, length: int) -> None:
        assert self.keys is not None and self.values is not None
        missing = length - self.keys.shape[2]
        if missing <= 0:
            return
        more = -(-missing // GROWTH) * GROWTH
        self.keys = _grown(self.keys, more)
        self.values = _grown(self.values, more)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """What the keys will span, with the planner aboard (see `PlannedOffset`)."""
        offset = self.slots.seen - self.slots.filled
        return self.slots.filled + query_length, PlannedOffset.of(offset, self.planner)

    def get_seq_length(self) -> int:
        """Tokens seen, padding included, not tokens kept: transformers feeds what is past it."""
        return self.slots.seen

    def get_max_length(self) -> int:
        """-1: any number of tokens can be fed."""
        return -1

    @property
    def nbytes(self) -> int:
        """Bytes allocated for this layer."""
        tensors = (self.keys, self.values, self.origins)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def reset(self) -> None:
        """Empty the storage; it stays allocated."""
        for tensor in (self.keys, self.values, self.origins):
            if tensor is not None:
                tensor.zero_()

    def take_rows(self, rows: Tensor) -> None:
        """Row `i` becomes what row `rows[i]` was. In place if the batch stays as large."""
        if not self.is_initialized:
            return
        rows = rows.to(self.device)
        for name in ("keys", "values", "origins"):
            tensor = getattr(self, name)
            if tensor is None:
                continue
            taken = tensor.index_select(0, rows)
            if taken.shape == tensor.shape:
                tensor.copy_(taken)
            else:
                setattr(self, name, taken)
        self.batch_size = len(rows)


def _put(
    storage: Tensor, states: Tensor, rows: Tensor | None, source: Tensor | None, slots: Tensor
) -> None:
    states = states.to(storage.dtype)
    if rows is not None:
        storage[rows, :, slots] = states[rows, :, source]
    else:
        storage.index_copy_(2, slots, states if source is None else states[:, :, source])


def _grown(tensor: Tensor, more: int) -> Tensor:
    grown = tensor.new_zeros((*tensor.shape[:2], tensor.shape[2] + more, tensor.shape[3]))
    grown[:, :, : tensor.shape[2]] = tensor
    return grown

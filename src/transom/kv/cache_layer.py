"""The base of all layers of a bounded cache."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from transom.attention.rotary import Rotary
from transom.errors import CacheError
from transom.kv.planner import AnyPlanner
from transom.kv.readable_layer import ReadableLayer

__all__ = ["CacheLayer"]


class CacheLayer(ReadableLayer):
    """One layer's storage, written and read as its cache plans.

    Storage is allocated at the first token and, under a bounded policy, never changes its shape
    again. A fork shares it until one of the two writes.
    """

    batch_size: int

    def __init__(self, index: int, planner: AnyPlanner, last: bool) -> None:
        self.tensors: dict[str, Tensor] = {}
        super().__init__()  # type: ignore[no-untyped-call]
        self.index = index
        self.planner = planner
        self.last = last
        self._sharers: WeakSet[CacheLayer] = WeakSet([self])
        self._recorded = False  # whether a gradient may need the storage unchanged

    @abstractmethod
    def _allocate(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make storage for the batch, heads, dtype and device of these keys and values."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate for the batch, heads, dtype and device of the first keys and values."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.batch_size = key_states.shape[0]
        self.tensors = {}
        self._allocate(key_states, value_states)
        self.is_initialized = True
        self._sharers, self._recorded = WeakSet([self]), False

    @property
    def _rotary(self) -> Rotary | None:
        """How the model rotates the keys of this layer; None if it does not."""
        return None if self.index in self.planner.layers_without_rope else self.planner.rotary

    def _corrected(self, key_states: Tensor) -> Tensor:
        """New keys as constant frequencies rotate them; see `Correction`."""
        correction = self.planner.plan.correction if self.planner.plan else None
        return key_states if correction is None else correction.of_keys(key_states, self.index)

    @property
    def nbytes(self) -> int:
        """Bytes allocated for this layer, also where a fork shares them."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def ready(self, key_states: Tensor, value_states: Tensor) -> Any:
        """Allocate storage that no fork shares, and return the plan of the pass under way.

        Raises:
            CacheError: when there is no plan, because the model does not run transom's attention.
        """
        plan = self.planner.plan
        if plan is None:
            raise CacheError(
                "this model does not run transom's attention, so the policy would not be applied. "
                "Build the cache with the model's own config, BoundedCache(policy, "
                "config=model.config), after any set_attn_implementation. For a cache that was "
                "copied or unpickled without its model, call select_attention(model.config). Pass "
                "a 2-D attention_mask or none."
            )
        if not self.is_initialized or self.batch_size != key_states.shape[0]:
            self.lazy_initialization(key_states, value_states)
        self.own()
        self._widen(key_states, value_states)
        self.dtype, self._recorded = key_states.dtype, torch.is_grad_enabled()
        if not plan.started:  # set before anything is written
            plan.started = True
        return plan

    def own(self) -> None:
        """Copy the storage if a fork shares it, or if a gradient needs it as it was.

        Also if it was made in inference mode, because then it cannot be written to outside.
        """
        shared = len(self._sharers) > 1 or self._recorded
        if not torch.compiler.is_compiling():  # the compiler cannot trace the question
            shared |= any(tensor.is_inference() for tensor in self.tensors.values())
        if shared:
            # In this order, so that a layer that is interrupted in between still counts as sharing.
            self.tensors = {name: tensor.clone() for name, tensor in self.tensors.items()}
            self._sharers.discard(self)
            self._sharers = WeakSet([self])

    def _widen(self, key_states: Tensor, value_states: Tensor) -> None:
        """Widen the storage if new states have a wider dtype, as they do outside autocast."""
        for name, states in (("keys", key_states), ("values", value_states)):
            for part in (name, f"{name}.newest", f"{name}.first"):
                if part in self.tensors and self.tensors[part].dtype != states.dtype:
                    wider = torch.promote_types(self.tensors[part].dtype, states.dtype)
                    self.tensors[part] = self.tensors[part].to(wider)

    def detach(self) -> None:
        """End the gradients of later passes here."""
        self.tensors = {name: tensor.detach() for name, tensor in self.tensors.items()}

    def fork(self, planner: AnyPlanner) -> CacheLayer:
        """The same layer for another cache, sharing storage until either writes."""
        twin = object.__new__(type(self))
        vars(twin).update(vars(self))
        twin.planner, twin.tensors = planner, dict(self.tensors)
        if self.is_initialized:
            self._sharers.add(twin)
        else:
            twin._sharers = WeakSet([twin])
        return twin

    def __getstate__(self) -> dict[str, object]:
        state = {name: value for name, value in vars(self).items() if name != "_sharers"}
        shared = len(self._sharers) > 1  # forks may be copied together
        tensors = {name: tensor.detach() for name, tensor in self.tensors.items()}
        copied = {name: tensor.clone() if shared else tensor for name, tensor in tensors.items()}
        return state | {"tensors": copied, "_recorded": False}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._sharers = WeakSet([self])

    def in_use(self, name: str, seen: int | None) -> int | None:
        """How many slots of a tensor are in use once a row has seen `seen` tokens.

        Slots are dimension 2. With `seen` None, how many slots there are. Returns None for a
        tensor without slots, or without a bound on them.
        """
        return None

    @property
    def state(self) -> dict[str, Tensor]:
        """All that this layer holds, as tensors without their empty slots; not copied."""
        held = {}
        for name, tensor in self.tensors.items():
            slots = self.in_use(name, self.planner.longest)
            # At least one slot: an empty tensor does not always keep its dtype and shape in a file.
            used = tensor if slots is None else tensor[:, :, : max(1, slots)]
            held[name] = used.detach()
        return held

    def restore(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Take over what `state` gave in a layer of the same kind."""
        self.tensors = {}
        for name, tensor in state.items():
            slots = self.in_use(name, None)
            self.tensors[name] = tensor.to(device)
            if slots is not None and slots > tensor.shape[2]:
                shape = (*tensor.shape[:2], slots, *tensor.shape[3:])
                self.tensors[name] = torch.zeros(shape, dtype=tensor.dtype, device=device)
                self.tensors[name][:, :, : tensor.shape[2]] = tensor
        self.is_initialized = bool(state)
        for name in ("values", "values.newest"):
            if name in self.tensors:
                values = self.tensors[name]
                self.dtype, self.device, self.batch_size = values.dtype, device, len(values)
        self._sharers, self._recorded = WeakSet([self]), False

    def clear(self) -> None:
        """Empty the storage; it stays allocated."""
        self.own()
        for tensor in self.tensors.values():
            tensor.zero_()

    def take_rows(self, rows: Tensor) -> None:
        """Row `i` becomes what row `rows[i]` was; in place if the batch size stays the same."""
        if not self.is_initialized:
            return
        self.own()
        rows = rows.to(self.device)
        for name, tensor in list(self.tensors.items()):
            taken = tensor.index_select(0, rows)
            if taken.shape == tensor.shape:
                tensor.copy_(taken)
            else:
                self.tensors[name] = taken
        self.batch_size = len(rows)

    def rebase(self, by: int) -> None:
        """Follow `BoundedCache.rebase`: the model's positions are lower by `by` from now on."""


def zeros(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """Storage `(batch, kv_heads, *shape)` for states like these."""
    # Zeros rather than uninitialised: an empty slot is masked, but 0 * NaN is still NaN.
    return like.new_zeros((*like.shape[:2], *shape), dtype=dtype)

"""A layer of a policy by position that stores all but its newest tokens in few bits."""

from __future__ import annotations

import torch
from torch import Tensor

from transom.kv.bounded_layer import BoundedLayer, fewest, grown, put
from transom.kv.quantization import Channels, Codes, decode, encode, storage
from transom.kv.slot_plan import SlotPlan
from transom.kv.slot_planner import SlotPlanner
from transom.policies import Precision
from transom.slow_paths import log_slow_path

__all__ = ["QuantizedLayer"]


class QuantizedLayer(BoundedLayer):
    """Keys and values in 8 or 4 bits; the newest and the first few tokens and pinned keys exactly.

    Tokens are quantized one by one, when they are no longer among the newest. Keys are quantized
    unrotated (pre-RoPE), because the rotation would mix their channels, and each channel is
    normalized first. Tokens that a pass adds are exact within that pass. Reading decodes
    everything that is seen, one layer at a time.

    `newest` holds the last `precision.exact` tokens of each row, in order, as they came; their
    slots among the quantized tokens are out of date. `first` holds the first few tokens.
    """

    def __init__(self, index: int, planner: SlotPlanner, last: bool) -> None:
        super().__init__(index, planner, last)
        precision = Precision.of(planner.policy)
        assert precision is not None
        self.precision = precision

    def _allocate(self, key_states: Tensor, value_states: Tensor) -> None:
        slots = self.planner.policy.capacity or 0
        for name, like in (("keys", key_states), ("values", value_states)):
            self.tensors |= storage(name, like, slots, self.precision, name == "keys")
        self._allocate_origins(key_states)

    def in_use(self, name: str, seen: int | None) -> int | None:
        part = name.partition(".")[2]
        if part in Channels._fields:
            return None
        few = {"newest": self.precision.exact, "first": self.precision.first}
        return fewest(seen, few[part]) if part in few else super().in_use(name, seen)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """As `BoundedLayer.update`, but what is returned is new memory each time."""
        plan: SlotPlan = self.ready(key_states, value_states)
        key_states = self._corrected(key_states)
        if self.planner.policy.capacity is None:
            self._reserve(max(plan.lengths))
        if plan.tokens == 1:
            self._write(key_states, value_states)
            keys, values = self._read(plan.lengths, plan.stored, self._rotation_in(plan))
        else:
            before = self.planner.lengths or [0] * len(key_states)
            keys, values = self._read(before, plan.stored, None)
            self._write(key_states, value_states)
            if plan.in_place:
                put(keys, key_states, plan.rows, plan.source, plan.slots)
                put(values, value_states, plan.rows, plan.source, plan.slots)
            else:
                keys = torch.cat((keys, key_states), dim=2)
                values = torch.cat((values, value_states), dim=2)
        self._stored(plan)
        return keys.to(key_states.dtype), values.to(value_states.dtype)

    def _write(self, key_states: Tensor, value_states: Tensor) -> None:
        plan = self.planner.plan
        assert plan is not None
        before = self.planner.lengths or [0] * len(key_states)
        if plan.valid is None and len(set(before)) == 1:
            self._take_in(slice(None), before[0], key_states, value_states)
        else:
            if len(before) > 1:
                log_slow_path(
                    "kv",
                    "quantized layers store the rows of a batch one by one, because the rows have "
                    "different lengths or padding. Feed rows of one length for speed.",
                )
            for row, length in enumerate(before):
                mine = slice(row, row + 1)
                states = [key_states[mine], value_states[mine]]
                if plan.valid is not None:
                    columns = plan.valid[row].nonzero().flatten().to(self.device)
                    states = [x.index_select(2, columns) for x in states]
                self._take_in(mine, length, *states)
        self._write_origins(key_states)

    def _take_in(self, rows: slice, before: int, keys: Tensor, values: Tensor) -> None:
        """Store real tokens of rows that have seen `before`; quantize what is no longer new."""
        held = min(before, self.precision.exact)
        first = before - held
        for name, states in (("keys", keys), ("values", values)):
            newest, kept = (self.tensors[f"{name}.{part}"][rows] for part in ("newest", "first"))
            if before < kept.shape[2]:
                some = states[:, :, : kept.shape[2] - before]
                kept[:, :, before : before + some.shape[2]] = some
            together = torch.cat((newest[:, :, :held], states), dim=2)
            leaving = max(0, together.shape[2] - self.precision.exact)
            newest[:, :, : together.shape[2] - leaving] = together[:, :, leaving:]
            if not leaving:
                continue
            places = torch.arange(first, first + leaving, device=self.device)
            old = together[:, :, :leaving]
            if name == "keys":
                if first == 0:
                    exact = self.precision.exact
                    sinks = min(self.precision.first, exact - 1)
                    found = Channels.of(self._unrotated(together[:, :, sinks:exact], sinks))
                    self.tensors["keys.mean"][rows] = found.mean
                    self.tensors["keys.width"][rows] = found.width
                old = self._channels(rows).normal(self._unrotated(old, first))
            if (ring := self.planner.ring) is not None:  # some may have been evicted already
                stay = (places < self.planner.policy.pinned) | (places >= first + leaving - ring)
                old, places = old[:, :, stay], places[stay]
            slots = self.planner.slots_of(places)
            quantized = encode(old, self.precision.bits, self.precision.group(old.shape[3]))
            for pool, part in zip(self._pools(name), quantized, strict=True):
                pool[rows].index_copy_(2, slots, part)

    def _states_for_newest(self) -> tuple[Tensor, Tensor]:
        return self._read(self.planner.lengths, self.planner.filled, self._pinned_rotation())

    def _read(
        self, lengths: list[int], stored: int, rotation: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The first `stored` slots of rows that have seen `lengths` tokens, decoded.

        Pinned keys are rotated as in `SlotPlan`; with None they are as they came.
        """
        keys, values = (
            decode(
                Codes(*(pool[:, :, :stored] for pool in self._pools(name))),
                self.precision.bits,
                self._channels(slice(None)) if name == "keys" else None,
            )
            for name in ("keys", "values")
        )
        same = len(set(lengths)) == 1
        rows = lengths[:1] if same else lengths
        places = self.planner.positions_of(torch.tensor(rows, device="cpu"), stored)
        if self._rotary is not None:
            rotations = self.planner.rotations_of(rows, stored, self.device)
            keys = self._rotary.unpaired(
                self._rotary.rotate_paired(self._rotary.paired(keys), rotations)
            )
        keys, values = (
            x.to(self.tensors[f"{name}.newest"].dtype)
            for x, name in ((keys, "keys"), (values, "values"))
        )
        for row, length in enumerate(rows):
            mine = slice(None) if same else slice(row, row + 1)
            count = min(length, self.precision.exact)
            newest = torch.arange(length - count, length, device=self.device)
            slots = self.planner.slots_of(newest)
            first = torch.arange(min(length, stored, self.precision.first), device="cpu")
            first = first[places[row, self.planner.slots_of(first)] == first].to(self.device)
            for out, name in ((keys, "keys"), (values, "values")):
                kept = self.tensors[f"{name}.first"][mine].index_select(2, first)
                out[mine].index_copy_(2, self.planner.slots_of(first), kept)
                kept = self.tensors[f"{name}.newest"][mine, :, :count]
                out[mine].index_copy_(2, slots, kept.clone())  # a gradient needs it as is
        if self.origins is not None:
            pinned = min(stored, self.origins.shape[2])
            origins = self.origins if rotation is None else self.origins @ rotation
            keys[:, :, :pinned] = origins[:, :, :pinned].to(keys.dtype)
        return keys, values

    def _unrotated(self, keys: Tensor, first: int) -> Tensor:
        """The unrotated (pre-RoPE) keys of successive tokens from position `first`."""
        if self._rotary is None:
            return keys
        places = torch.arange(first, first + keys.shape[2], device=self.device)
        return self._rotated(keys, self.planner.base - places)

    def _rotated(self, x: Tensor, by: Tensor) -> Tensor:
        """`x` rotated by `by` positions; float32."""
        rotary = self._rotary
        assert rotary is not None
        return rotary.unpaired(rotary.rotate_paired(rotary.paired(x), self.planner.rotations(by)))

    def _pools(self, name: str) -> tuple[Tensor, ...]:
        return tuple(self.tensors[f"{name}.{part}"] for part in Codes._fields)

    def _channels(self, rows: slice) -> Channels:
        return Channels(*(self.tensors[f"keys.{part}"][rows] for part in Channels._fields))

    def rebase(self, by: int) -> None:
        if self.is_initialized and self._rotary is not None:
            self.own()
            for name in ("keys.newest", "keys.first"):
                keys = self.tensors[name]
                keys.copy_(self._rotated(keys, torch.tensor([-by], device=self.device)))

    def _reserve(self, length: int) -> None:
        for name in ("keys", "values"):
            for part in Codes._fields:
                key = f"{name}.{part}"
                self.tensors[key] = grown(self.tensors[key], length)

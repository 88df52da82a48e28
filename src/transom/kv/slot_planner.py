"""Plans which token is in which slot, for policies by position."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from transom.attention.patterns import Pattern
from transom.attention.returned_weights import Columns
from transom.attention.rotary import Rotary
from transom.attention.visibility import Visibility
from transom.kv.key_blocks import key_blocks
from transom.kv.planner import PassPlanner
from transom.kv.slot_plan import SlotPlan
from transom.policies import Positional

__all__ = ["SlotPlanner"]


class SlotPlanner(PassPlanner[Positional, SlotPlan]):
    """Says by a formula which slot each token is in.

    The first `policy.pinned` tokens of a row have a slot each; the others share a ring of slots. So
    the length of a row decides which token each slot holds. Padding never takes a slot: a padded
    row behaves exactly like the same row alone.

    Attributes:
        owners: for a layer that attends to the keys of another layer, which one that is.
    """

    owners: Mapping[int, int] = MappingProxyType({})
    _rotated: tuple[tuple[object, ...], Tensor] | None = None

    def __getstate__(self) -> dict[str, object]:
        return super().__getstate__() | {"_rotated": None}

    @property
    def ring(self) -> int | None:
        """Slots of the ring; None when storage grows instead."""
        capacity = self.policy.capacity
        return None if capacity is None else capacity - self.policy.pinned

    @property
    def filled(self) -> int:
        """Slots in use in the fullest row."""
        return self._bounded(self.longest)

    def visible(self, plan: SlotPlan) -> Tensor | Visibility | None:
        return plan.visible

    @property
    def columns(self) -> Columns | None:
        """Where the keys of the pass under way are in the text."""
        if self.plan is None:
            return None
        return Columns(self.plan.keys, self.real_after, self.seen + self.plan.tokens)

    def slots_of(self, positions: Tensor) -> Tensor:
        """The slot of each position."""
        if self.ring is None:
            return positions
        pinned = self.policy.pinned
        return torch.where(positions < pinned, positions, pinned + (positions - pinned) % self.ring)

    def positions_of(self, lengths: Tensor, stored: int) -> Tensor:
        """`(rows, stored)`: the position in each slot of rows of the given lengths, -1 if empty."""
        slots = torch.arange(stored, device="cpu")
        newest = lengths[:, None] - 1
        positions = slots.expand(len(lengths), -1)
        if self.ring is not None:
            pinned = self.policy.pinned
            behind = (newest - pinned - (slots - pinned)) % self.ring
            positions = torch.where(slots < pinned, positions, newest - behind)
            positions = torch.where((slots >= pinned) & (positions < pinned), -1, positions)
        return torch.where(positions <= newest, positions, -1)

    def rotations(self, by: Tensor) -> Tensor:
        """The rotations by `by` positions, `(*by.shape, rotary_dim / 2)` complex."""
        assert self.rotary is not None
        return self.rotary.cis(by)

    def rotations_of(self, lengths: list[int], stored: int, device: torch.device) -> Tensor:
        """The rotation of the token in each slot, `(rows, 1, stored, rotary_dim / 2)` complex.

        It is the same for every layer of a pass, so the latest is kept.
        """
        key = (*lengths, stored, self.base)
        if self._rotated is None or self._rotated[0] != key:
            places = self.positions_of(torch.tensor(lengths, device="cpu"), stored).clamp(min=0)
            self._rotated = (key, self.rotations((places - self.base)[:, None]).to(device))
        return self._rotated[1]

    def kept_slots(self) -> Tensor:
        """`(rows, kept)` int64: the slots that the newest token of a row sees, in text order.

        One row if all are alike; a row that sees fewer than another has -1 in front.
        """
        ends = torch.tensor(self._distinct(self.lengths), device="cpu")
        places = self.positions_of(ends, self.filled)
        seen = self.policy.visible(ends[:, None] - 1, places) & (places >= 0)
        order = places.masked_fill(~seen, -1).argsort(dim=1, stable=True)
        slots = order[:, order.shape[1] - int(seen.sum(1).max()) :]
        return slots.masked_fill(~seen.gather(1, slots), -1)

    def rotation_of_pinned(self, queries: Tensor | None = None) -> Tensor | None:
        """The rotation of the pinned keys that one query of each row needs, as in `SlotPlan`.

        Args:
            queries: `(rows, 1)` positions; by default those of the newest tokens.
        """
        if queries is None:
            queries = torch.tensor(self._distinct(self.lengths), device="cpu")[:, None] - 1
        shift = self._shift_of_pinned(queries)
        if shift is None:
            return None
        assert self.rotary is not None
        return self.rotary.matrix(shift[:, 0], self.head_dim)[:, None]

    def _shift_of_pinned(self, queries: Tensor) -> Tensor | None:
        """How far pinned keys are from where each query expects them; None if they stay."""
        if self.rotary is None or not self.policy.pinned or self.positions != "compact":
            return None
        shift = self.policy.gap(queries) - self.base
        return shift if self.base or bool((shift != 0).any()) else None

    @staticmethod
    def _distinct(lengths: list[int]) -> list[int]:
        """One length if all rows have the same."""
        return lengths[:1] if len(set(lengths)) == 1 else lengths

    def crop_obstacle(self, columns: int) -> str | None:
        if (reason := super().crop_obstacle(columns)) is not None:
            return reason
        removing = zip(self.lengths, self.newest(columns), strict=True)
        longest = max((length for length, removed in removing if removed), default=0)
        return self.trace(longest)

    def _plan(
        self,
        before: list[int],
        valid: Tensor | None,
        tokens: int,
        device: torch.device,
        pattern: Pattern | None,
        blocks: Tensor | None,
    ) -> SlotPlan:
        if blocks is not None and bool((blocks != blocks[:1]).any()) and valid is None:
            valid = torch.ones(len(before), tokens, dtype=torch.bool, device="cpu")
        if valid is None and len(set(before)) == 1:
            return self._uniform(before, tokens, device, pattern, blocks)
        if valid is None:
            valid = torch.ones(len(before), tokens, dtype=torch.bool, device="cpu")
        return self._ragged(before, valid, device, pattern, blocks)

    def _bounded(self, length: int) -> int:
        capacity = self.policy.capacity
        return length if capacity is None else min(length, capacity)

    def _uniform(
        self,
        before: list[int],
        tokens: int,
        device: torch.device,
        pattern: Pattern | None,
        blocks: Tensor | None,
    ) -> SlotPlan:
        length = before[0]
        end = length + tokens
        fresh = torch.arange(length, end, device="cpu")
        source = None
        if self.ring is not None and tokens > 1 and end > self._bounded(end):
            kept = (fresh < self.policy.pinned) | (fresh >= end - self.ring)
            source = kept.nonzero().flatten()
        slots = self.slots_of(fresh if source is None else fresh[source])
        return self._made(
            before=torch.tensor([length], device="cpu"),
            after=[end] * len(before),
            fresh=fresh[None],
            queries=fresh[None],
            write=(None, source, slots),
            device=device,
            pattern=pattern,
            blocks=None if blocks is None else blocks[:1],
        )

    def _ragged(
        self,
        before: list[int],
        valid: Tensor,
        device: torch.device,
        pattern: Pattern | None,
        blocks: Tensor | None,
    ) -> SlotPlan:
        starts = torch.tensor(before, device="cpu")
        queries = (starts[:, None] + valid.cumsum(dim=1) - 1).clamp_(min=0)
        fresh = torch.where(valid, queries, -1)
        ends = starts + valid.sum(dim=1)
        kept = valid
        if self.ring is not None:
            recent = fresh >= (ends - self.ring)[:, None]
            kept = valid & ((fresh < self.policy.pinned) | recent)
        rows, source = kept.nonzero(as_tuple=True)
        return self._made(
            before=starts,
            after=ends.tolist(),
            fresh=fresh,
            queries=queries,
            write=(rows, source, self.slots_of(fresh[rows, source])),
            device=device,
            pattern=pattern,
            blocks=blocks,
        )

    def _made(
        self,
        before: Tensor,
        after: list[int],
        fresh: Tensor,
        queries: Tensor,
        write: tuple[Tensor | None, Tensor | None, Tensor],
        device: torch.device,
        pattern: Pattern | None,
        blocks: Tensor | None,
    ) -> SlotPlan:
        """A plan on `device`, from positions that are all on the CPU."""
        tokens = fresh.shape[1]
        longest = max(after)
        in_place = tokens == 1 or longest == self._bounded(longest)
        ends = torch.tensor(after[: len(before)], device="cpu")
        stored = self._bounded(longest if in_place else int(before.max()))
        keys = self.positions_of(ends if in_place else before, stored)
        if not in_place:
            keys = torch.cat((keys, fresh), dim=1)

        plan = SlotPlan(
            tokens=tokens,
            lengths=after,
            rows=_to(write[0], device),
            source=_to(write[1], device),
            slots=write[2].to(device),
            stored=stored,
            in_place=in_place,
            rotation=None,
            visible=None,
            keys=keys,
            valid=None if write[0] is None else fresh >= 0,
            fills_pinned=int(before.min()) < self.policy.pinned,
        )
        plan.correction = self._correction(queries, plan.valid, device)
        if tokens == 1:
            plan.rotation = _to(self.rotation_of_pinned(queries), device)
        if tokens == 1 and plan.correction is None:
            mask = (self.policy.visible(queries, keys) & (keys >= 0))[:, None, None, :]
            if pattern is not None:
                held = keys[:, None, None].clamp(min=0)
                mask = mask & pattern.at(queries[:, None, :, None], held)
            mask = mask | ~mask.any(dim=-1, keepdim=True)  # padding: see Visibility
            if not bool(mask.all()):
                plan.visible = mask.to(device)
        else:
            shift = None if tokens == 1 else self._shift_of_pinned(queries)
            plan.visible = Visibility(
                policy=self.policy,
                queries=queries.to(device),
                keys=keys.to(device),
                rotary=None if shift is None else self.rotary,
                rotation=None if shift is None else _angles(self.rotary, -shift, device),
                layers_without_rope=self.layers_without_rope,
                pattern=pattern,
                blocks=None
                if blocks is None
                else key_blocks(self.policy, blocks, fresh, before, keys, device),
                stored=set(),
                owners=self.owners,
                correction=plan.correction,
            )
        return plan


def _to(x: Tensor | None, device: torch.device) -> Tensor | None:
    return None if x is None else x.to(device)


def _angles(rotary: Rotary | None, by: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    assert rotary is not None
    cos, sin = rotary.angles(by)
    return cos.to(device), sin.to(device)

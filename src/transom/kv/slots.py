"""Which token lives in which slot: the plan of one forward pass, made once for all layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from transom.attention.patterns import Pattern
from transom.attention.rotary import Rotary
from transom.attention.visibility import Visibility
from transom.errors import CacheError, InputError
from transom.policies import Policy

__all__ = ["Plan", "Positions", "Slots"]

Positions = Literal["compact", "absolute"]


@dataclass(eq=False)
class Plan:
    """What one forward pass writes to and reads from every layer's storage.

    Attributes:
        tokens: new tokens per row, padding included.
        lengths: real tokens per row once the pass is done.
        rows, source, slots: new token `source[i]` of row `rows[i]` is written to `slots[i]`. With
            `rows` None the same is done in every row; with `source` None, to every new token.
        stored: how many slots are read; those past it are still empty.
        in_place: written first, then read from storage; otherwise the new tokens are read after
            the stored ones and written afterwards, since they may take the slots of the oldest.
        turn: `(rows, head_dim, head_dim)` float32 by which pinned keys are turned, or None. Only
            for a single query; several are turned themselves (see `Visibility`).
        visible: for a single query a mask over the slots, `(rows, 1, 1, stored)` bool, or None
            when it sees all of them; for several a `Visibility`.
        fills_pinned: some new token may be among the pinned ones.
        started: some layer has already run.
        commits: the last layer ends the pass; a compiled step does so itself, outside its graph.
    """

    tokens: int
    lengths: list[int]
    rows: Tensor | None
    source: Tensor | None
    slots: Tensor
    stored: int
    in_place: bool
    turn: Tensor | None
    visible: Tensor | Visibility | None
    fills_pinned: bool
    started: bool = False
    commits: bool = True


class Slots:
    """How many tokens each row has seen, and from that, in closed form, where each of them is.

    The first `policy.pinned` tokens of a row have a slot each; the others go round a ring. So slot
    positions and validity are functions of the row's length, padding never takes a slot, and a
    padded row behaves exactly like the same row alone.

    Mutated by `begin` (the pending plan), `commit`, `reorder`, `crop` and `clear`.

    Attributes:
        seen: columns fed to the model, padding included; what transformers counts.
        lengths: real tokens per row; empty before the first pass.
        base: positions by which kept keys have been turned back, see `BoundedCache.rebase`.
        plan: the pass under way, if any.
    """

    def __init__(
        self,
        policy: Policy,
        positions: Positions,
        rotary: Rotary | None,
        head_dim: int,
        unturned: frozenset[int],
    ) -> None:
        self.policy = policy
        self.positions = positions
        self.rotary = rotary
        self.head_dim = head_dim
        self.unturned = unturned
        self.clear()

    def clear(self) -> None:
        """Forget every token."""
        self.seen = 0
        self.base = 0
        self.lengths: list[int] = []
        self.plan: Plan | None = None

    @property
    def ring(self) -> int | None:
        """Slots of the ring; None when storage grows instead."""
        capacity = self.policy.capacity
        return None if capacity is None else capacity - self.policy.pinned

    @property
    def longest(self) -> int:
        """Real tokens in the longest row."""
        return max(self.lengths, default=0)

    @property
    def filled(self) -> int:
        """Slots in use in the fullest row."""
        return self._bounded(self.longest)

    def begin(
        self,
        tokens: int,
        batch: int,
        attention_mask: Tensor | None,
        device: torch.device,
        pattern: Pattern | None = None,
    ) -> Plan:
        """Plan a forward pass of `tokens` new tokens for each of `batch` rows.

        Args:
            attention_mask: `(batch, seen + tokens)`, nonzero for real tokens; None for all real.
            pattern: what must let a key through besides the policy.

        Raises:
            CacheError: when the pass before this one did not finish, or the batch size changed.
            InputError: when the mask has the wrong shape.
        """
        if self.plan is not None and self.plan.started:
            raise CacheError(
                "the forward pass before this one stopped half-way (an interrupt or an error), so "
                "some layers are a step ahead of others. Call reset() and feed the text again."
            )
        if self.lengths and batch != len(self.lengths):
            raise CacheError(
                f"the cache holds a batch of {len(self.lengths)} and the model was given {batch}; "
                "expected the same batch, or a new cache (or reset()) for a new one."
            )
        before = self.lengths or [0] * batch
        valid = self._valid(attention_mask, tokens, batch)
        if valid is None and len(set(before)) == 1:
            self.plan = self._uniform(before, tokens, device, pattern)
        else:
            if valid is None:
                valid = torch.ones(batch, tokens, dtype=torch.bool)
            self.plan = self._ragged(before, valid.cpu(), device, pattern)
        return self.plan

    def commit(self) -> None:
        """The pass is done in every layer: count its tokens."""
        assert self.plan is not None
        self.seen += self.plan.tokens
        self.lengths = self.plan.lengths
        self.plan = None

    def slots_of(self, positions: Tensor) -> Tensor:
        """The slot of each position."""
        if self.ring is None:
            return positions
        pinned = self.policy.pinned
        return torch.where(positions < pinned, positions, pinned + (positions - pinned) % self.ring)

    def positions_of(self, lengths: Tensor, stored: int) -> Tensor:
        """`(rows, stored)`: the position in each slot of rows of the given lengths, -1 if empty."""
        slots = torch.arange(stored)
        newest = lengths[:, None] - 1
        positions = slots.expand(len(lengths), -1)
        if self.ring is not None:
            pinned = self.policy.pinned
            behind = (newest - pinned - (slots - pinned)) % self.ring
            positions = torch.where(slots < pinned, positions, newest - behind)
            positions = torch.where((slots >= pinned) & (positions < pinned), -1, positions)
        return torch.where(positions <= newest, positions, -1)

    def can_crop(self, tokens: int) -> bool:
        """Whether the newest `tokens` tokens of every row can be dropped without a trace."""
        capacity = self.policy.capacity
        unpadded = set(self.lengths) == {self.seen}
        fits = capacity is None or self.seen <= capacity
        return tokens <= self.seen and unpadded and fits

    def crop(self, tokens: int) -> None:
        """Drop the newest `tokens` tokens; only when `can_crop`."""
        self.seen -= tokens
        self.lengths = [length - tokens for length in self.lengths]

    def reorder(self, rows: list[int]) -> None:
        """Row `i` becomes what row `rows[i]` was; also repeats or drops rows."""
        self.lengths = [self.lengths[row] for row in rows] if self.lengths else []

    def _bounded(self, length: int) -> int:
        capacity = self.policy.capacity
        return length if capacity is None else min(length, capacity)

    def _valid(self, attention_mask: Tensor | None, tokens: int, batch: int) -> Tensor | None:
        if attention_mask is None:
            return None
        expected = (batch, self.seen + tokens)
        if tuple(attention_mask.shape) != expected:
            raise InputError(
                f"attention_mask is {tuple(attention_mask.shape)}; expected {expected}: one column "
                f"for each of the {self.seen} tokens already seen and the {tokens} new ones."
            )
        valid = attention_mask[:, self.seen :].bool()
        return None if bool(valid.all()) else valid

    def _uniform(
        self, before: list[int], tokens: int, device: torch.device, pattern: Pattern | None
    ) -> Plan:
        length = before[0]
        end = length + tokens
        fresh = torch.arange(length, end)
        source = None
        if self.ring is not None and tokens > 1 and end > self._bounded(end):
            kept = (fresh < self.policy.pinned) | (fresh >= end - self.ring)
            source = kept.nonzero().flatten()
        slots = self.slots_of(fresh if source is None else fresh[source])
        return self._plan(
            before=torch.tensor([length]),
            after=[end] * len(before),
            fresh=fresh[None],
            queries=fresh[None],
            write=(None, source, slots),
            device=device,
            pattern=pattern,
        )

    def _ragged(
        self, before: list[int], valid: Tensor, device: torch.device, pattern: Pattern | None
    ) -> Plan:
        starts = torch.tensor(before)
        queries = (starts[:, None] + valid.cumsum(dim=1) - 1).clamp_(min=0)
        fresh = torch.where(valid, queries, -1)
        ends = starts + valid.sum(dim=1)
        kept = valid
        if self.ring is not None:
            recent = fresh >= (ends - self.ring)[:, None]
            kept = valid & ((fresh < self.policy.pinned) | recent)
        rows, source = kept.nonzero(as_tuple=True)
        return self._plan(
            before=starts,
            after=ends.tolist(),
            fresh=fresh,
            queries=queries,
            write=(rows, source, self.slots_of(fresh[rows, source])),
            device=device,
            pattern=pattern,
        )

    def _plan(
        self,
        before: Tensor,
        after: list[int],
        fresh: Tensor,
        queries: Tensor,
        write: tuple[Tensor | None, Tensor | None, Tensor],
        device: torch.device,
        pattern: Pattern | None,
    ) -> Plan:
        """From positions, all on the CPU, to a plan on `device`."""
        tokens = fresh.shape[1]
        longest = max(after)
        in_place = tokens == 1 or longest == self._bounded(longest)
        ends = torch.tensor(after[: len(before)])
        stored = self._bounded(longest if in_place else int(before.max()))
        keys = self.positions_of(ends if in_place else before, stored)
        if not in_place:
            keys = torch.cat((keys, fresh), dim=1)

        # How far pinned keys are from where this query should find them.
        shift = self.policy.gap(queries) - self.base
        shifted = (
            self.rotary is not None
            and self.policy.pinned > 0
            and self.positions == "compact"
            and bool((shift != 0).any() or self.base)
        )
        plan = Plan(
            tokens=tokens,
            lengths=after,
            rows=_to(write[0], device),
            source=_to(write[1], device),
            slots=write[2].to(device),
            stored=stored,
            in_place=in_place,
            turn=None,
            visible=None,
            fills_pinned=int(before.min()) < self.policy.pinned,
        )
        if tokens == 1:
            mask = (self.policy.visible(queries, keys) & (keys >= 0))[:, None, None, :]
            if pattern is not None:
                held = keys[:, None, None].clamp(min=0)
                mask = mask & pattern.at(queries[:, None, :, None], held)
            mask = mask | ~mask.any(dim=-1, keepdim=True)  # padding: see Visibility
            if not bool(mask.all()):
                plan.visible = mask.to(device)
            if shifted:
                assert self.rotary is not None
                plan.turn = self.rotary.matrix(shift[:, 0], self.head_dim)[:, None].to(device)
        else:
            plan.visible = Visibility(
                policy=self.policy,
                queries=queries.to(device),
                keys=keys.to(device),
                rotary=self.rotary if shifted else None,
                turn=_angles(self.rotary, -shift, device) if shifted else None,
                unturned=self.unturned,
                pattern=pattern,
            )
        return plan


def _to(x: Tensor | None, device: torch.device) -> Tensor | None:
    return None if x is None else x.to(device)


def _angles(rotary: Rotary | None, by: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    assert rotary is not None
    cos, sin = rotary.angles(by)
    return cos.to(device), sin.to(device)

"""The plan of a forward pass whose layers compute attention themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from transom.attention.attending import Attending, left_out
from transom.attention.correction import Correction
from transom.attention.modes import lasting, like_fused
from transom.attention.patterns import Pattern
from transom.attention.score_rule import ScoreRule
from transom.errors import CacheError
from transom.kv.planner import PassPlanner, PolicyT
from transom.slow_paths import log_slow_path

__all__ = ["AttendingLayer", "HeadwisePlan", "HeadwisePlanner", "RowGroup"]

CACHED_ROTATIONS = 64  # single rotations that are kept


class AttendingLayer(Protocol):
    """What a plan asks of a layer; `transom.kv.self_attending_layer` has the base of them."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rule: ScoreRule) -> Tensor: ...


class RowGroup(NamedTuple):
    """Rows of a pass that are in the same state, and their real tokens.

    Attributes:
        rows: of the batch.
        columns: of the pass, where the real tokens are; None for all columns.
        before: real tokens that the rows had seen before the pass.
        unrotate: `(tokens, rotary_dim / 2)` complex, which undoes the rotary embedding of each new
            token; None without rotary positions.
        votes_below: what a layer leaves for the layer above it, by the number of tokens seen.
    """

    rows: slice
    columns: Tensor | None
    before: int
    unrotate: Tensor | None
    votes_below: dict[int, Tensor]


@dataclass(eq=False)
class HeadwisePlan(Attending):
    """A forward pass, the same for every layer; each layer computes its own attention.

    Attributes:
        tokens: new tokens per row, padding included.
        lengths: real tokens per row once the pass is done.
        groups: the rows that are handled together.
        layers: by index; the cache sets it.
        started: some layer has already run.
        correction: as for `Attending`.
    """

    tokens: int
    lengths: list[int]
    groups: list[RowGroup]
    layers: Mapping[int, AttendingLayer] = field(default_factory=dict, repr=False)
    started: bool = False
    correction: Correction | None = None

    @property
    def positions(self) -> Tensor:
        places = torch.zeros(len(self.lengths), self.tokens, dtype=torch.int64, device="cpu")
        for group in self.groups:
            columns = slice(None) if group.columns is None else group.columns.cpu()
            count = self.tokens if group.columns is None else len(group.columns)
            places[group.rows, columns] = group.before + torch.arange(count, device="cpu")
        return places

    @lasting
    @like_fused
    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, rule: ScoreRule | None = None, layer: int = 0
    ) -> Tensor:
        if not self.started:
            raise left_out(layer)
        rule = ScoreRule(q.shape[-1] ** -0.5) if rule is None else rule
        return self.layers[layer].attend(q, k, v, rule)


class HeadwisePlanner(PassPlanner[PolicyT, HeadwisePlan]):
    """Groups the rows of a pass: what a layer holds follows from how many tokens a row has seen."""

    _table: Tensor | None = None

    @cached_property
    def _single(self) -> dict[tuple[int, torch.device], Tensor]:
        return {}

    def __getstate__(self) -> dict[str, object]:
        return super().__getstate__() | {"_table": None, "_single": {}}

    def rotations(self, stop: int, device: torch.device) -> Tensor:
        """`(stop, rotary_dim / 2)` complex: the rotation to each of the first positions."""
        if self._table is None or len(self._table) < stop:
            assert self.rotary is not None
            # A quarter more: where budgets differ, the largest grows little by little.
            places = torch.arange(max(self.policy.capacity or 0, stop + stop // 4), device="cpu")
            self._table = self.rotary.cis(places)
        return self._table[:stop].to(device)

    def rotation(self, by: int, device: torch.device) -> Tensor:
        """`(rotary_dim / 2,)` complex: the rotation by `by` positions; the layers share it."""
        found = self._single.get((by, device))
        if found is None:
            assert self.rotary is not None
            if len(self._single) >= CACHED_ROTATIONS:
                self._single.clear()
            found = self.rotary.cis(torch.tensor(by, device="cpu")).to(device)
            self._single[by, device] = found
        return found

    @property
    def filled(self) -> int:
        return self.policy.kept(self.longest)

    def visible(self, plan: HeadwisePlan) -> HeadwisePlan:
        return plan

    def _plan(
        self,
        before: list[int],
        valid: Tensor | None,
        tokens: int,
        device: torch.device,
        pattern: Pattern | None,
        blocks: Tensor | None,
    ) -> HeadwisePlan:
        if blocks is not None:
            raise CacheError(
                f"under {self.policy} tokens are kept one by one, so image tokens that see each "
                "other cannot be kept together. Use a policy by position, without recall, such as "
                "sinks or window."
            )
        plan = self._grouped(before, valid, tokens, device, pattern)
        if self.own is not None:
            plan.correction = self._correction(plan.positions, valid, device)
        return plan

    def _grouped(
        self,
        before: list[int],
        valid: Tensor | None,
        tokens: int,
        device: torch.device,
        pattern: Pattern | None,
    ) -> HeadwisePlan:
        if pattern is not None:
            raise CacheError(
                f"under {self.policy} each head sees different tokens, which cannot be combined "
                "with a pattern. Use a policy by position, without recall, inside use_pattern."
            )
        same = len(set(before)) == 1
        if valid is None and same:
            groups = [self._group(slice(None), None, before[0], tokens, device)]
            lengths = [length + tokens for length in before]
            return HeadwisePlan(tokens, lengths, groups)
        if valid is None:
            valid = torch.ones(len(before), tokens, dtype=torch.bool, device="cpu")
        if len(before) > 1:
            log_slow_path(
                "kv",
                "layers that compute attention themselves handle the rows of a batch one by one, "
                "because the rows have different lengths or padding. Feed rows of one length for "
                "speed.",
            )
        groups = []
        for row, real in enumerate(valid):
            columns = real.nonzero().flatten()
            if len(columns):
                groups.append(
                    self._group(
                        slice(row, row + 1), columns.to(device), before[row], len(columns), device
                    )
                )
        lengths = [n + int(new) for n, new in zip(before, valid.sum(1), strict=True)]
        return HeadwisePlan(tokens, lengths, groups)

    def _group(
        self, rows: slice, columns: Tensor | None, before: int, tokens: int, device: torch.device
    ) -> RowGroup:
        if self.rotary is None:
            return RowGroup(rows, columns, before, None, {})
        places = torch.arange(before, before + tokens, device="cpu") - self.base
        return RowGroup(rows, columns, before, self.rotary.cis(-places).to(device), {})

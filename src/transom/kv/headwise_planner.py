"""The plan of a forward pass in which layers attend for themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from transom.attention.attending import Attending, left_out
from transom.attention.modes import lasting, like_fused
from transom.attention.patterns import Pattern
from transom.errors import CacheError
from transom.kv.planner import PassPlanner, PolicyT

if TYPE_CHECKING:
    from transom.kv.self_attending import SelfAttendingLayer

__all__ = ["HeadwisePlan", "HeadwisePlanner", "RowGroup"]

FEW = 64  # single turns that are kept


class RowGroup(NamedTuple):
    """Rows of a pass that are in the same state, and their real tokens.

    Attributes:
        rows: of the batch.
        columns: of the pass, where the real tokens are; None for all.
        before: real tokens that the rows have seen so far.
        back: `(tokens, rotary_dim / 2)` complex, which turns each token from the angle it comes
            with to none; None without rotary positions.
        below: what layers tell those above them, by the token at which they do.
    """

    rows: slice
    columns: Tensor | None
    before: int
    back: Tensor | None
    below: dict[int, Tensor]


@dataclass(eq=False)
class HeadwisePlan(Attending):
    """A forward pass, the same for every layer; each layer attends for itself.

    Attributes:
        tokens: new tokens per row, padding included.
        lengths: real tokens per row once the pass is done.
        runs: which rows are handled together.
        layers: by index; set by the cache.
        started: some layer has already run.
    """

    tokens: int
    lengths: list[int]
    runs: list[RowGroup]
    layers: Mapping[int, SelfAttendingLayer] = field(default_factory=dict, repr=False)
    started: bool = False

    @property
    def positions(self) -> Tensor:
        places = torch.zeros(len(self.lengths), self.tokens, dtype=torch.int64, device="cpu")
        for run in self.runs:
            columns = slice(None) if run.columns is None else run.columns.cpu()
            count = self.tokens if run.columns is None else len(run.columns)
            places[run.rows, columns] = run.before + torch.arange(count, device="cpu")
        return places

    @lasting
    @like_fused
    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, scaling: float | None = None, layer: int = 0
    ) -> Tensor:
        if not self.started:
            raise left_out(layer)
        return self.layers[layer].attend(
            q, k, v, q.shape[-1] ** -0.5 if scaling is None else scaling
        )


class HeadwisePlanner(PassPlanner[PolicyT, HeadwisePlan]):
    """Where each row stands: what its layers hold follows from how many tokens it has seen."""

    _table: Tensor | None = None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._single: dict[tuple[int, torch.device], Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_table": None, "_single": {}}

    def rotations(self, stop: int, device: torch.device) -> Tensor:
        """`(stop, rotary_dim / 2)` complex: to each of the first compact positions."""
        if self._table is None or len(self._table) < stop:
            assert self.rotary is not None
            # Some to spare: where budgets differ, the largest grows little by little.
            places = torch.arange(max(self.policy.capacity or 0, stop + stop // 4), device="cpu")
            self._table = self.rotary.cis(places)
        return self._table[:stop].to(device)

    def rotation(self, by: int, device: torch.device) -> Tensor:
        """`(rotary_dim / 2,)` complex: by one number of positions, which layers have in common."""
        found = self._single.get((by, device))
        if found is None:
            assert self.rotary is not None
            if len(self._single) >= FEW:
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
    ) -> HeadwisePlan:
        if pattern is not None:
            raise CacheError(
                f"under {self.policy} each head sees other tokens, which cannot be combined with a "
                "pattern; use a policy by position, without recall, inside use_pattern."
            )
        same = len(set(before)) == 1
        if valid is None and same:
            runs = [self._run(slice(None), None, before[0], tokens, device)]
            lengths = [length + tokens for length in before]
            return HeadwisePlan(tokens, lengths, runs)
        if valid is None:
            valid = torch.ones(len(before), tokens, dtype=torch.bool, device="cpu")
        runs = []
        for row, real in enumerate(valid):
            columns = real.nonzero().flatten()
            if len(columns):
                rows = slice(row, row + 1)
                runs.append(self._run(rows, columns.to(device), before[row], len(columns), device))
        lengths = [n + int(new) for n, new in zip(before, valid.sum(1), strict=True)]
        return HeadwisePlan(tokens, lengths, runs)

    def _run(
        self, rows: slice, columns: Tensor | None, before: int, tokens: int, device: torch.device
    ) -> RowGroup:
        if self.rotary is None:
            return RowGroup(rows, columns, before, None, {})
        places = torch.arange(before, before + tokens, device="cpu") - self.base
        return RowGroup(rows, columns, before, self.rotary.cis(-places).to(device), {})

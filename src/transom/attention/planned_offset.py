"""How a bounded cache reaches the mask function of transformers, which never sees the cache."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from transom.attention.attending import Attending
from transom.attention.patterns import Pattern
from transom.attention.returned_weights import Columns

__all__ = ["PlannedOffset", "Planner"]


class Planner(Protocol):
    """Decides, at the start of a forward pass, what it will see: a bounded cache."""

    def begin(
        self,
        tokens: int,
        batch: int,
        attention_mask: Tensor | None,
        device: torch.device,
        pattern: Pattern | None,
        blocks: Tensor | None,
    ) -> Tensor | Attending | None:
        """Plan a pass; returns its mask, None for everything, or what attends instead."""

    def awaits(self, visible: Tensor | Attending | None) -> bool:
        """Whether this is what `begin` gave for the pass that comes next."""

    @property
    def columns(self) -> Columns | None:
        """Where the keys of this pass are in the text; None where heads keep different tokens."""


class PlannedOffset(int):
    """A key offset that carries the planner it came from.

    transformers asks a cache for `(kv_length, kv_offset)` and hands both to the mask function.
    """

    planner: Planner

    @classmethod
    def of(cls, offset: int, planner: Planner) -> PlannedOffset:
        """The offset, with its planner."""
        planned = cls(offset)
        planned.planner = planner
        return planned

"""Different patterns for different heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from transom.attention.patterns.base import Pattern
from transom.attention.patterns.mask_function import Grid, Tiles
from transom.errors import InputError
from transom.validation import known_keywords, whole_number

__all__ = ["head_groups"]


@dataclass(frozen=True)
class _Heads(Pattern):
    patterns: tuple[Pattern, ...]
    choice: tuple[int, ...]

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        choice = torch.tensor(self.choice, device=h.device)[h]
        made = [(choice == n) & p(b, h, q, k) for n, p in enumerate(self.patterns)]
        return torch.stack(torch.broadcast_tensors(*made)).any(0)

    def tiles(self, grid: Grid) -> Tiles:
        choice = torch.tensor(self.choice, device=grid.q_first.device)[:, None, None]
        made = [p.tiles(grid) for p in self.patterns]
        some, every = made[0]
        for n, tiles in enumerate(made[1:], 1):
            some = torch.where(choice == n, tiles.some, some)
            every = torch.where(choice == n, tiles.every, every)
        return Tiles(some, every)

    @property
    def batch(self) -> int | None:
        return next((p.batch for p in self.patterns if p.batch), None)

    @property
    def heads(self) -> int:
        return len(self.choice)

    @property
    def limit(self) -> int | None:
        return min((p.limit for p in self.patterns if p.limit is not None), default=None)

    @property
    def scale(self) -> int:
        return max(pattern.scale for pattern in self.patterns)

    def __repr__(self) -> str:
        return f"head_groups({list(self.patterns)}, {list(self.choice)})"


@known_keywords
def head_groups(patterns: Sequence[Pattern], choice: Sequence[int]) -> Pattern:
    """Different patterns for different heads: head `h` has `patterns[choice[h]]`.

    The patterns `[causal(), sinks(4) | sliding(256)]` make retrieval heads and streaming heads.

    Source: DuoAttention, https://arxiv.org/abs/2410.10819.

    Raises:
        InputError: if `choice` has an index without a pattern, or a pattern is made for another
            number of heads.
    """
    chosen = tuple(whole_number("head_groups", "choice", c, 0, unit="a pattern") for c in choice)
    if not chosen or max(chosen) >= len(patterns):
        raise InputError(
            f"head_groups: choice is {list(choice)} and there are {len(patterns)} patterns; "
            "expected the index of a pattern for each head."
        )
    for pattern in patterns:
        if not isinstance(pattern, Pattern) or pattern.heads not in (None, len(chosen)):
            raise InputError(
                f"head_groups: {pattern!r} is among the patterns; expected patterns that are the "
                f"same for all heads, or made for {len(chosen)}."
            )
    if len(batches := {p.batch for p in patterns if p.batch}) > 1:
        raise InputError(
            f"head_groups: patterns for batches of {sorted(batches)}; expected one size."
        )
    return _Heads(tuple(patterns), chosen)

"""Patterns of chosen positions: global tokens and random blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from transom.attention.modes import lasting
from transom.attention.patterns.base import Pattern
from transom.attention.patterns.mask_function import Grid, Tiles
from transom.errors import InputError
from transom.validation import known_keywords, whole_number

__all__ = ["global_tokens", "random_blocks"]


@dataclass(frozen=True)
class _Global(Pattern):
    positions: tuple[int, ...]

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        wanted = torch.tensor(self.positions, device=q.device)
        return torch.isin(q, wanted) | torch.isin(k, wanted)

    def tiles(self, grid: Grid) -> Tiles:
        q_some, q_every = self._among(grid.q_first, grid.q_last)
        k_some, k_every = self._among(grid.k_first, grid.k_last)
        return Tiles(q_some | k_some, q_every | k_every)

    def _among(self, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        wanted = torch.tensor(self.positions, device=first.device)
        upto = torch.searchsorted(wanted, last.contiguous(), right=True)
        inside = upto - torch.searchsorted(wanted, first.contiguous())
        return inside > 0, inside == last - first + 1

    @property
    def scale(self) -> int:
        return 2 * (self.positions[-1] + 8)

    def __repr__(self) -> str:
        count = len(self.positions)
        first = self.positions == tuple(range(count))
        return f"global_tokens({count if first else list(self.positions)})"


@dataclass(frozen=True)
class _Random(Pattern):
    count: int
    block: int
    seed: int

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        row, column = self._block(q), self._block(k)
        chosen = _chosen(self, _enough(row, column)).to(q.device)
        return (k <= q) & chosen[row, column]

    def tiles(self, grid: Grid) -> Tiles:
        q_first, q_last, k_first, k_last = (self._block(edge) for edge in grid)
        sums = _sums(self, _enough(q_last, k_last)).to(grid.q_first.device)
        inside = sums[q_last + 1, k_last + 1] - sums[q_first, k_last + 1]
        inside = inside - sums[q_last + 1, k_first] + sums[q_first, k_first]
        size = (q_last - q_first + 1) * (k_last - k_first + 1)
        return Tiles(
            (inside > 0) & (grid.k_first <= grid.q_last),
            (inside == size) & (grid.k_last <= grid.q_first),
        )

    def _block(self, positions: Tensor) -> Tensor:
        # If there are more queries than keys, the first have negative positions and see nothing.
        return positions.clamp(min=0).div(self.block, rounding_mode="floor")

    @property
    def scale(self) -> int:
        return 16 * self.block

    def __repr__(self) -> str:
        return f"random_blocks({self.count}, block={self.block}, seed={self.seed})"


def _enough(row: Tensor, column: Tensor) -> int:
    """How many blocks to choose from: a power of two, so that long texts need few choices."""
    return 1 << int(torch.maximum(row.max(), column.max())).bit_length()


@lru_cache(maxsize=32)
@lasting
def _chosen(pattern: _Random, blocks: int) -> Tensor:
    """Which blocks are chosen, `(blocks, blocks)` bool; more blocks do not change earlier rows."""
    chosen = torch.zeros(blocks, blocks, dtype=torch.bool, device="cpu")
    for row in range(blocks):
        random = np.random.default_rng([pattern.seed, row])
        some = random.choice(row + 1, min(pattern.count, row + 1), replace=False)
        chosen[row, torch.from_numpy(some)] = True
    return chosen


@lru_cache(maxsize=32)
@lasting
def _sums(pattern: _Random, blocks: int) -> Tensor:
    """How many blocks are chosen before each row and column, `(blocks + 1, blocks + 1)` int64."""
    sums = torch.zeros(blocks + 1, blocks + 1, dtype=torch.int64, device="cpu")
    sums[1:, 1:] = _chosen(pattern, blocks).long().cumsum(0).cumsum(1)
    return sums


@known_keywords
def global_tokens(positions: int | Sequence[int]) -> Pattern:
    """Tokens that see every key and that every query sees.

    They see later keys too, so a language model needs `causal() & global_tokens(2)`.

    Args:
        positions: how many of the first tokens; or the positions of the tokens.

    Source: BigBird, https://arxiv.org/abs/2007.14062; Longformer, https://arxiv.org/abs/2004.05150.
    """
    if not isinstance(positions, Iterable):
        positions = range(whole_number("global_tokens", "positions", positions, 1))
    chosen = sorted(
        {whole_number("global_tokens", "position", p, 0, unit="one") for p in positions}
    )
    if not chosen:
        raise InputError("global_tokens: no positions were given; expected at least one.")
    return _Global(tuple(chosen))


@known_keywords
def random_blocks(count: int, *, block: int = 64, seed: int = 0) -> Pattern:
    """For each block of queries, `count` random blocks of keys up to its own; causal.

    The choice depends only on the seed and the block. It is the same in every head.

    Args:
        block: queries or keys per block.

    Source: BigBird, https://arxiv.org/abs/2007.14062.
    """
    return _Random(
        whole_number("random_blocks", "count", count, 1, unit="blocks"),
        whole_number("random_blocks", "block", block, 1),
        whole_number("random_blocks", "seed", seed, 0, unit="a seed", maximum=2**63 - 1),
    )

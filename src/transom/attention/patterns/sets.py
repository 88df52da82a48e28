"""Patterns that are told who belongs together: global tokens, random blocks, documents, padding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transom.attention.patterns.base import Grid, Pattern, Tiles
from transom.checks import whole_number
from transom.errors import InputError

__all__ = ["documents", "global_tokens", "head_groups", "padding", "random_blocks"]


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
        # Queries before the first token, where there are more than keys, see nothing: k <= q.
        return positions.clamp(min=0).div(self.block, rounding_mode="floor")

    @property
    def scale(self) -> int:
        return 16 * self.block

    def __repr__(self) -> str:
        return f"random_blocks({self.count}, block={self.block}, seed={self.seed})"


def _enough(row: Tensor, column: Tensor) -> int:
    """Blocks to choose from; a power of two, so that few choices are made as positions grow."""
    return 1 << int(torch.maximum(row.max(), column.max())).bit_length()


@lru_cache(maxsize=32)
def _chosen(pattern: _Random, blocks: int) -> Tensor:
    """`(blocks, blocks)` bool; the choice of a row does not depend on how many rows there are."""
    chosen = torch.zeros(blocks, blocks, dtype=torch.bool)
    for row in range(blocks):
        random = np.random.default_rng([pattern.seed, row])
        some = random.choice(row + 1, min(pattern.count, row + 1), replace=False)
        chosen[row, torch.from_numpy(some)] = True
    return chosen


@lru_cache(maxsize=32)
def _sums(pattern: _Random, blocks: int) -> Tensor:
    """`(blocks + 1, blocks + 1)` int64: how many blocks are chosen before each row and column."""
    sums = torch.zeros(blocks + 1, blocks + 1, dtype=torch.int64)
    sums[1:, 1:] = _chosen(pattern, blocks).long().cumsum(0).cumsum(1)
    return sums


@dataclass(frozen=True)
class _Rows(Pattern):
    """A pattern of a number for every row and position, compared by content."""

    kind: str
    content: bytes = field(repr=False)
    shape: tuple[int, int]

    @property
    def numbers(self) -> Tensor:
        return torch.frombuffer(bytearray(self.content), dtype=torch.int32).view(self.shape)

    @property
    def batch(self) -> int | None:
        return self.shape[0] if self.shape[0] > 1 else None

    @property
    def limit(self) -> int:
        return self.shape[1]

    @property
    def scale(self) -> int:
        return self.shape[1]

    def __repr__(self) -> str:
        return f"{self.kind}({self.shape[0]} x {self.shape[1]})"

    def _check(self, last: Tensor) -> None:
        if int(last.max()) >= self.limit:
            raise InputError(
                f"{self!r} is made for {self.limit} tokens and there are more than {last.max()}; "
                "expected a number for every token."
            )


class _Documents(_Rows):
    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        numbers = self.numbers.to(q.device)
        row = b if self.batch else torch.zeros_like(b)
        return (numbers[row, q.clamp(min=0)] == numbers[row, k]) & (q >= 0)

    def tiles(self, grid: Grid) -> Tiles:
        self._check(torch.maximum(grid.q_last.max(), grid.k_last.max()))
        # Numbers never fall along a row, so a tile's first and last bound those between.
        numbers = self.numbers.to(grid.q_first.device)[:, None]
        q_first, q_last, k_first, k_last = (numbers[:, :, edge.clamp(min=0)] for edge in grid)
        return Tiles(
            (q_first <= k_last) & (k_first <= q_last) & (grid.q_last >= 0),
            (q_first == k_last) & (k_first == q_last) & (grid.q_first >= 0),
        )

    def __repr__(self) -> str:
        lengths = self.numbers[0].unique_consecutive(return_counts=True)[1].tolist()
        return super().__repr__() if self.batch else f"documents({lengths})"


class _Padding(_Rows):
    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        row = b if self.batch else torch.zeros_like(b)
        return (self.numbers.to(q.device)[row, k] != 0) & (q == q)

    def tiles(self, grid: Grid) -> Tiles:
        self._check(grid.k_last)
        real = torch.nn.functional.pad(self.numbers.to(grid.q_first.device).cumsum(1), (1, 0))
        inside = real[:, None, grid.k_last + 1] - real[:, None, grid.k_first]
        every_query = grid.q_first == grid.q_first
        return Tiles(
            (inside > 0) & every_query, (inside == grid.k_last - grid.k_first + 1) & every_query
        )


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


def global_tokens(positions: int | Sequence[int]) -> Pattern:
    """Tokens that see all and are seen by all: the first so many, or those at the positions given.

    Also later keys, so for a language model combine it: `causal() & global_tokens(2)`.

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


def random_blocks(count: int, *, block: int = 64, seed: int = 0) -> Pattern:
    """For each block of queries `count` blocks of keys at random, of those up to its own; causal.

    The choice depends on the seed and the block alone, and is the same in every head.

    Source: BigBird, https://arxiv.org/abs/2007.14062.
    """
    return _Random(
        whole_number("random_blocks", "count", count, 1, unit="blocks"),
        whole_number("random_blocks", "block", block, 1),
        whole_number("random_blocks", "seed", seed, 0, unit="a seed"),
    )


def documents(numbers: Any) -> Pattern:
    """Keys of the query's own document, where several are packed into a row.

    Also later keys, so for a language model: `causal() & documents(...)`.

    Args:
        numbers: the lengths of the documents, a list of whole numbers, the same for all rows; or
            the number of each token's document, `(batch, length)` or `(1, length)`, a tensor that
            never falls along a row.

    Raises:
        InputError: when there are no tokens, or numbers fall.
    """
    if not isinstance(numbers, Tensor):
        if not isinstance(numbers, Iterable):
            raise InputError(f"documents: numbers is {numbers!r}; expected a list or a tensor.")
        lengths = [whole_number("documents", "length", n, 1) for n in numbers]
        numbers = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths).long())[None]
    # The steps in int64, as differences of unsigned numbers never fall.
    steps = torch.atleast_1d(numbers.long()).diff(dim=-1)
    whole = numbers.numel() > 0 and not numbers.is_floating_point()
    if numbers.ndim != 2 or not whole or bool((steps < 0).any()):
        raise InputError(
            f"documents: numbers of shape {tuple(numbers.shape)}; expected whole numbers "
            "(batch, length) that never fall along a row: documents stand one after the other."
        )
    # Counted from 0, so that the same documents are equal however they were numbered.
    counted = torch.nn.functional.pad((steps > 0).cumsum(1), (1, 0))
    return _of_rows(_Documents, "documents", counted)


def padding(mask: Tensor) -> Pattern:
    """Keys that are real tokens.

    Args:
        mask: `(batch, kv_len)`, bool or 0 and 1; true for real tokens.
    """
    if mask.ndim != 2 or not mask.numel():
        raise InputError(f"padding: mask has shape {tuple(mask.shape)}; expected (batch, kv_len).")
    return _of_rows(_Padding, "padding", mask != 0)


def head_groups(patterns: Sequence[Pattern], choice: Sequence[int]) -> Pattern:
    """Different patterns for different heads: head `h` has `patterns[choice[h]]`.

    With `[causal(), sinks(4) | sliding(256)]` these are retrieval and streaming heads.

    Source: DuoAttention, https://arxiv.org/abs/2410.10819.

    Raises:
        InputError: when a pattern is chosen that there is not, or one is made for another number
            of heads.
    """
    chosen = tuple(whole_number("head_groups", "choice", c, 0, unit="a pattern") for c in choice)
    if not chosen or max(chosen) >= len(patterns):
        raise InputError(
            f"head_groups: choice is {list(choice)} and there are {len(patterns)} patterns; "
            "expected the index of a pattern for every head."
        )
    for pattern in patterns:
        if not isinstance(pattern, Pattern) or pattern.heads not in (None, len(chosen)):
            raise InputError(
                f"head_groups: {pattern!r} is among the patterns; expected patterns that are alike "
                f"for all heads, or made for {len(chosen)}."
            )
    if len(batches := {p.batch for p in patterns if p.batch}) > 1:
        raise InputError(f"head_groups: patterns for batches of {sorted(batches)}; expected one.")
    return _Heads(tuple(patterns), chosen)


def _of_rows(kind: type[_Rows], name: str, numbers: Tensor) -> Pattern:
    rows = numbers.to("cpu", torch.int32).contiguous()
    return kind(name, rows.numpy().tobytes(), (rows.shape[0], rows.shape[1]))

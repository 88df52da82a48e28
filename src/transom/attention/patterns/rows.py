"""Patterns that may differ by batch row: documents packed into a row, and padding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from transom.attention.patterns.base import Pattern
from transom.attention.patterns.mask_function import Grid, Tiles
from transom.errors import InputError
from transom.validation import known_keywords, whole_number

__all__ = ["documents", "padding"]


@dataclass(frozen=True)
class _Rows(Pattern):
    """A pattern made of a number for each row and position; equal if the numbers are equal."""

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
                f"{self!r} is made for {self.limit} tokens and there are at least "
                f"{int(last.max()) + 1}; expected a number for every token."
            )


class _Documents(_Rows):
    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        numbers = self.numbers.to(q.device)
        row = b if self.batch else torch.zeros_like(b)
        return (numbers[row, q.clamp(min=0)] == numbers[row, k]) & (q >= 0)

    def tiles(self, grid: Grid) -> Tiles:
        self._check(torch.maximum(grid.q_last.max(), grid.k_last.max()))
        # Numbers never fall along a row, so the first and last of a tile bound those between.
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


@known_keywords
def documents(numbers: Tensor | Iterable[int]) -> Pattern:
    """The keys of the query's own document, where several documents are packed into a row.

    Later keys too, so a language model needs `causal() & documents(...)`.

    Args:
        numbers: the lengths of the documents, if all rows have the same; or the number of each
            token's document, a tensor `(batch, length)` or `(1, length)` of whole numbers that
            never fall along a row.

    Raises:
        InputError: if there are no tokens, or numbers fall.
    """
    if not isinstance(numbers, Tensor):
        numbers = _numbers(numbers)
    # In int64, because the differences of unsigned numbers are never negative.
    steps = torch.atleast_1d(numbers.long()).diff(dim=-1)
    whole = numbers.numel() > 0 and not numbers.is_floating_point()
    if numbers.ndim != 2 or not whole or bool((steps < 0).any()):
        raise InputError(
            f"documents: numbers of shape {tuple(numbers.shape)}; expected whole numbers "
            "(batch, length) that never fall along a row, because documents follow each other."
        )
    # Numbered anew from 0, so that equal documents make equal patterns.
    counted = torch.nn.functional.pad((steps > 0).cumsum(1), (1, 0))
    return _of_rows(_Documents, "documents", counted)


@known_keywords
def padding(mask: Tensor) -> Pattern:
    """The keys that are real tokens.

    Args:
        mask: `(batch, kv_len)`, bool or 0 and 1; true for real tokens.

    Raises:
        InputError: if the mask has another shape, or no tokens.
    """
    if mask.ndim != 2 or not mask.numel():
        raise InputError(f"padding: mask has shape {tuple(mask.shape)}; expected (batch, kv_len).")
    return _of_rows(_Padding, "padding", mask != 0)


def _numbers(lengths: object) -> Tensor:
    """The number of each token's document, `(1, tokens)` int64, from the documents' lengths."""
    if not isinstance(lengths, Iterable):
        raise InputError(f"documents: numbers is {lengths!r}; expected a list or a tensor.")
    counts = [whole_number("documents", "length", n, 1) for n in lengths]
    times = torch.tensor(counts, dtype=torch.int64, device="cpu")
    return torch.arange(len(counts), device="cpu").repeat_interleave(times)[None]


def _of_rows(kind: type[_Rows], name: str, numbers: Tensor) -> Pattern:
    rows = numbers.to("cpu", torch.int32).contiguous()
    return kind(name, rows.numpy().tobytes(), (rows.shape[0], rows.shape[1]))

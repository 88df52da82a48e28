"""What a pattern is: a plain function of positions, and what it can say about whole tiles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from transom.errors import InputError
from transom.policies import Span
from transom.validation import known_keywords

__all__ = ["Around", "Grid", "Pattern", "Tiles"]


class Grid(NamedTuple):
    """Rectangles of queries and keys: first and last positions, both included.

    `q_first` and `q_last` are `(rows, 1)` int64, `k_first` and `k_last` `(1, columns)`.
    """

    q_first: Tensor
    q_last: Tensor
    k_first: Tensor
    k_last: Tensor


class Tiles(NamedTuple):
    """What is known of each tile of a grid; bool, broadcastable to `(batch, heads, rows, columns)`.

    Attributes:
        some: false only where nothing in the tile is visible.
        every: true only where everything in the tile is visible.
    """

    some: Tensor
    every: Tensor


@known_keywords
class Pattern(ABC):
    """Which keys each query may see: a function of (batch, head, query, key) positions.

    Called with integer tensors that broadcast, it gives a bool tensor. Patterns are values: they
    can be compared, hashed and combined with `&`, `|` and `~`. Print one for a sketch of it.

    A pattern also answers for whole tiles at once, with intervals instead of positions. That may
    be imprecise in one direction only, see `Tiles`, and is what keeps anyone from ever having to
    look at `q_len * kv_len` positions to find out which blocks of keys a block of queries needs.
    """

    @abstractmethod
    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        """May query `q` see key `k`, in row `b` of the batch and in head `h`? Elementwise."""

    @abstractmethod
    def tiles(self, grid: Grid) -> Tiles:
        """What can be said of each tile of a grid."""

    @property
    @abstractmethod
    def scale(self) -> int:
        """How many tokens it takes to see what the pattern looks like."""

    @property
    def batch(self) -> int | None:
        """Rows of the batch it is made for; None when it is the same for all."""
        return None

    @property
    def heads(self) -> int | None:
        """Query heads it is made for; None when it is the same for all."""
        return None

    @property
    def limit(self) -> int | None:
        """How many tokens it is made for; None when it goes on for ever."""
        return None

    def spans(self, query: int) -> tuple[Span, ...] | None:
        """The keys that one query sees, where a formula says so; ascending, none empty."""
        return None

    def __and__(self, other: Pattern) -> Pattern:
        return Both(self, other)

    def __or__(self, other: Pattern) -> Pattern:
        return Either(self, other)

    def __invert__(self) -> Pattern:
        return Not(self)

    def mask(
        self, q_len: int, kv_len: int | None = None, *, batch: int = 1, heads: int = 1
    ) -> Tensor:
        """All of it at once, `(batch, heads, q_len, kv_len)` bool: for small sizes.

        The last query is at the last key, as when a chunk of queries follows what is cached.

        Raises:
            InputError: when there are more keys than it is made for.
        """
        kv_len = q_len if kv_len is None else kv_len
        if self.limit is not None and kv_len > self.limit:
            raise InputError(
                f"{self!r} is made for {self.limit} tokens and there are {kv_len} keys; expected "
                "at most as many."
            )
        queries = torch.arange(kv_len - q_len, kv_len, device="cpu")[:, None]
        return self.at(queries, torch.arange(kv_len, device="cpu"), batch=batch, heads=heads)

    def at(
        self, queries: Tensor, keys: Tensor, *, batch: int | None = None, heads: int | None = None
    ) -> Tensor:
        """What it says of positions, in the shape they broadcast to, `(batch, heads, ...)`.

        Args:
            queries, keys: int64, of up to 4 dimensions.
            batch, heads: rows and heads to ask about; by default 1 where all are alike, else all.
        """
        b = torch.arange(batch or self.batch or 1, device=queries.device)[:, None, None, None]
        h = torch.arange(heads or self.heads or 1, device=queries.device)[:, None, None]
        visible = self(b, h, queries, keys)
        return visible.expand(torch.broadcast_shapes(*(x.shape for x in (b, h, queries, keys))))

    def pairs(self, q_len: int, kv_len: int | None = None) -> float:
        """How many (query, key) pairs are visible, of `q_len * kv_len`.

        Exact; the mean over rows and heads where these differ. Every position is looked at only in
        tiles that are visible in part.
        """
        from transom.attention.patterns.layout import layout

        return layout(self, q_len, q_len if kv_len is None else kv_len).pairs

    def fraction(self, q_len: int, kv_len: int | None = None) -> float:
        """Visible pairs, as a fraction of `q_len * kv_len`."""
        return self.pairs(q_len, kv_len) / (q_len * (q_len if kv_len is None else kv_len))

    def draw(
        self, path: Path | str, length: int | None = None, *, title: str | None = None
    ) -> None:
        """Save a picture of the pattern as PNG; needs matplotlib.

        Args:
            length: of queries and keys; by default as many as show what it looks like.
        """
        from transom.attention.patterns.picture import draw

        draw(self, path, length, title)

    def sketch(self, length: int | None = None, cells: int = 32) -> str:
        """The pattern in characters: `#` all visible, `+` some of it, `.` nothing."""
        from transom.attention.patterns.picture import sketch

        return sketch(self, length, cells)

    def __str__(self) -> str:
        from transom.attention.patterns.picture import shown_length

        length = shown_length(self)
        return f"{self!r}, {length:,} tokens\n{self.sketch(length)}"


@dataclass(frozen=True, repr=False)
class Both(Pattern):
    """What both of two patterns let through."""

    left: Pattern
    right: Pattern

    def __post_init__(self) -> None:
        for name in ("batch", "heads"):
            one, two = getattr(self.left, name), getattr(self.right, name)
            if None not in (one, two) and one != two:
                raise InputError(
                    f"cannot combine {self.left!r} and {self.right!r}: {name} is {one} in one and "
                    f"{two} in the other; expected the same, or a pattern that is alike for all."
                )

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return self.left(b, h, q, k) & self.right(b, h, q, k)

    def tiles(self, grid: Grid) -> Tiles:
        one, two = self.left.tiles(grid), self.right.tiles(grid)
        return Tiles(one.some & two.some, one.every & two.every)

    def spans(self, query: int) -> tuple[Span, ...] | None:
        one, two = self.left.spans(query), self.right.spans(query)
        if one is None or two is None:
            return None
        cuts = [Span(max(a.start, b.start), min(a.stop, b.stop)) for a in one for b in two]
        return tuple(sorted(cut for cut in cuts if cut.start < cut.stop))

    @property
    def scale(self) -> int:
        return max(self.left.scale, self.right.scale)

    @property
    def batch(self) -> int | None:
        return self.left.batch or self.right.batch

    @property
    def heads(self) -> int | None:
        return self.left.heads or self.right.heads

    @property
    def limit(self) -> int | None:
        known = [p.limit for p in (self.left, self.right) if p.limit is not None]
        return min(known, default=None)

    def __repr__(self) -> str:
        return self._joined("&")

    def _joined(self, sign: str) -> str:
        # A chain of one sign reads back the same without brackets, as both group to the left.
        left = repr(self.left) if type(self.left) is type(self) else _inside(self.left)
        return f"{left} {sign} {_inside(self.right)}"


@dataclass(frozen=True, repr=False)
class Either(Both):
    """What one of two patterns lets through."""

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return self.left(b, h, q, k) | self.right(b, h, q, k)

    def tiles(self, grid: Grid) -> Tiles:
        one, two = self.left.tiles(grid), self.right.tiles(grid)
        return Tiles(one.some | two.some, one.every | two.every)

    def spans(self, query: int) -> tuple[Span, ...] | None:
        one, two = self.left.spans(query), self.right.spans(query)
        if one is None or two is None:
            return None
        joined: list[Span] = []
        for span in sorted((*one, *two)):
            if joined and span.start <= joined[-1].stop:
                joined[-1] = Span(joined[-1].start, max(joined[-1].stop, span.stop))
            else:
                joined.append(span)
        return tuple(joined)

    def __repr__(self) -> str:
        return self._joined("|")


@dataclass(frozen=True, repr=False)
class Around(Pattern):
    """A pattern made from one other, for the same rows, heads and lengths."""

    pattern: Pattern

    @property
    def scale(self) -> int:
        return self.pattern.scale

    @property
    def batch(self) -> int | None:
        return self.pattern.batch

    @property
    def heads(self) -> int | None:
        return self.pattern.heads

    @property
    def limit(self) -> int | None:
        return self.pattern.limit


@dataclass(frozen=True, repr=False)
class Not(Around):
    """What a pattern does not let through."""

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return ~self.pattern(b, h, q, k)

    def tiles(self, grid: Grid) -> Tiles:
        some, every = self.pattern.tiles(grid)
        return Tiles(~every, ~some)

    def __repr__(self) -> str:
        return f"~{_inside(self.pattern)}"


def _inside(pattern: Any) -> str:
    return f"({pattern!r})" if isinstance(pattern, Both) else repr(pattern)

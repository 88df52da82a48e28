"""The base of all patterns, and how patterns combine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from transom.attention.patterns.layout import layout
from transom.attention.patterns.mask_function import Grid, MaskFunction, Tiles
from transom.attention.patterns.picture import draw, shown_length, sketch
from transom.errors import InputError
from transom.policies import Span
from transom.validation import known_keywords

__all__ = ["Around", "Pattern"]


@known_keywords
class Pattern(MaskFunction):
    """Which keys each query may see: a mask function that can be combined, measured and drawn.

    Patterns are values: compare them, hash them, and combine them with `&`, `|` and `~`. Printing
    one shows a sketch of it.
    """

    def __and__(self, other: Pattern) -> Pattern:
        return Both(self, other)

    def __or__(self, other: Pattern) -> Pattern:
        return Either(self, other)

    def __invert__(self) -> Pattern:
        return Not(self)

    def mask(
        self, q_len: int, kv_len: int | None = None, *, batch: int = 1, heads: int = 1
    ) -> Tensor:
        """The whole mask, `(batch, heads, q_len, kv_len)` bool on the CPU; for small sizes.

        The last query is at the last key, as when a chunk of queries follows a cache.

        Args:
            kv_len: `q_len` by default.

        Raises:
            InputError: if there are more keys than it is made for.
        """
        kv_len = q_len if kv_len is None else kv_len
        if self.limit is not None and kv_len > self.limit:
            raise InputError(
                f"{self!r} is made for {self.limit} tokens and there are {kv_len} keys; expected "
                f"at most {self.limit} keys."
            )
        queries = torch.arange(kv_len - q_len, kv_len, device="cpu")[:, None]
        return self.at(queries, torch.arange(kv_len, device="cpu"), batch=batch, heads=heads)

    def at(
        self, queries: Tensor, keys: Tensor, *, batch: int | None = None, heads: int | None = None
    ) -> Tensor:
        """Whether queries may see keys, bool, broadcast to `(batch, heads, ...)`.

        Args:
            queries, keys: positions, int64, of up to 4 dimensions.
            batch: batch rows; by default 1 if all rows are alike, else as many as it is made for.
            heads: query heads; by default likewise.
        """
        b = torch.arange(batch or self.batch or 1, device=queries.device)[:, None, None, None]
        h = torch.arange(heads or self.heads or 1, device=queries.device)[:, None, None]
        visible = self(b, h, queries, keys)
        return visible.expand(torch.broadcast_shapes(*(x.shape for x in (b, h, queries, keys))))

    def pairs(self, q_len: int, kv_len: int | None = None) -> float:
        """How many of the `q_len * kv_len` (query, key) pairs are visible.

        Exact; the mean over batch rows and heads if these differ. Single positions are looked at
        only in tiles that are partly visible.
        """
        return layout(self, q_len, q_len if kv_len is None else kv_len).pairs

    def fraction(self, q_len: int, kv_len: int | None = None) -> float:
        """Visible pairs, as a fraction of `q_len * kv_len`."""
        return self.pairs(q_len, kv_len) / (q_len * (q_len if kv_len is None else kv_len))

    def draw(
        self, path: Path | str, length: int | None = None, *, title: str | None = None
    ) -> None:
        """Save a picture of the pattern as PNG; needs matplotlib.

        Args:
            length: of queries and keys; by default enough to show the pattern's shape.
            title: by default the pattern as text.

        Raises:
            MissingExtraError: if matplotlib is not installed.
            InputError: if the file cannot be written, or `path` has another suffix than `.png`.
        """
        draw(self, path, length, title)

    def sketch(self, length: int | None = None, cells: int = 32) -> str:
        """The pattern in characters: `#` all visible, `+` some, `.` none."""
        return sketch(self, length, cells)

    def __str__(self) -> str:
        length = shown_length(self)
        return f"{self!r}, {length:,} tokens\n{self.sketch(length)}"


@dataclass(frozen=True, repr=False)
class Both(Pattern):
    """The pairs that two patterns both let through."""

    left: Pattern
    right: Pattern

    def __post_init__(self) -> None:
        for name in ("batch", "heads"):
            one, two = getattr(self.left, name), getattr(self.right, name)
            if None not in (one, two) and one != two:
                raise InputError(
                    f"cannot combine {self.left!r} and {self.right!r}: {name} is {one} in one and "
                    f"{two} in the other; expected the same {name} in both, or a pattern that is "
                    "the same for all."
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
        # Both signs group to the left, so a chain of one sign needs no brackets.
        left = repr(self.left) if type(self.left) is type(self) else _inside(self.left)
        return f"{left} {sign} {_inside(self.right)}"


@dataclass(frozen=True, repr=False)
class Either(Both):
    """The pairs that at least one of two patterns lets through."""

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
    """A pattern made from another one, for the same batch rows, heads and lengths."""

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
    """The pairs that a pattern does not let through."""

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return ~self.pattern(b, h, q, k)

    def tiles(self, grid: Grid) -> Tiles:
        some, every = self.pattern.tiles(grid)
        return Tiles(~every, ~some)

    def __repr__(self) -> str:
        return f"~{_inside(self.pattern)}"


def _inside(pattern: Pattern) -> str:
    return f"({pattern!r})" if isinstance(pattern, Both) else repr(pattern)

"""Patterns that depend on positions alone: windows, sinks, chunks and prefixes."""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor

from transom.attention.patterns.base import Pattern
from transom.attention.patterns.mask_function import Grid, Tiles
from transom.policies import Span
from transom.validation import known_keywords, whole_number

__all__ = [
    "Dilated",
    "causal",
    "chunked",
    "dilated",
    "everything",
    "prefix_lm",
    "sinks",
    "sliding",
]


@dataclass(frozen=True)
class _Sized(Pattern):
    """A pattern whose fields are sizes; its `repr` is the call that makes it."""

    def __repr__(self) -> str:
        name = type(self).__name__.lower().strip("_")
        given = [(getattr(self, field.name), field.default) for field in fields(self)]
        return f"{name}({', '.join(str(value) for value, default in given if value != default)})"

    @property
    def scale(self) -> int:
        return max((2 * value for value in self.__dict__.values()), default=16)


@dataclass(frozen=True, repr=False)
class _Everything(_Sized):
    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q == q) & (k == k)

    def tiles(self, grid: Grid) -> Tiles:
        visible = (grid.q_first == grid.q_first) & (grid.k_first == grid.k_first)
        return Tiles(visible, visible)


@dataclass(frozen=True, repr=False)
class _Causal(_Sized):
    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return k <= q

    def tiles(self, grid: Grid) -> Tiles:
        return Tiles(grid.k_first <= grid.q_last, grid.k_last <= grid.q_first)

    def spans(self, query: int) -> tuple[Span, ...]:
        return (Span(0, query + 1),)


@dataclass(frozen=True, repr=False)
class _Sliding(_Sized):
    size: int
    future: int = 0

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k > q - self.size) & (k <= q + self.future)

    def tiles(self, grid: Grid) -> Tiles:
        nearest, farthest = grid.q_first - grid.k_last, grid.q_last - grid.k_first
        return Tiles(
            (farthest >= -self.future) & (nearest < self.size),
            (nearest >= -self.future) & (farthest < self.size),
        )

    def spans(self, query: int) -> tuple[Span, ...]:
        return (Span(max(0, query - self.size + 1), query + 1 + self.future),)


@dataclass(frozen=True, repr=False)
class _Sinks(_Sized):
    count: int

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k < self.count) & (k <= q)

    def tiles(self, grid: Grid) -> Tiles:
        return Tiles(
            (grid.k_first < self.count) & (grid.k_first <= grid.q_last),
            (grid.k_last < self.count) & (grid.k_last <= grid.q_first),
        )

    def spans(self, query: int) -> tuple[Span, ...]:
        return (Span(0, min(self.count, query + 1)),)


@dataclass(frozen=True, repr=False)
class Dilated(_Sized):
    """See `dilated`. Public to the kernels, which compute it as `step` plain windows."""

    size: int
    step: int

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        back = q - k
        return (back >= 0) & (back < self.size * self.step) & (back % self.step == 0)

    def tiles(self, grid: Grid) -> Tiles:
        nearest = (grid.q_first - grid.k_last).clamp(min=0)
        farthest = (grid.q_last - grid.k_first).clamp(max=(self.size - 1) * self.step)
        some = farthest.div(self.step, rounding_mode="floor") * self.step >= nearest
        alone = (grid.q_first == grid.q_last) & (grid.k_first == grid.k_last)
        within = _Sliding(self.size * self.step).tiles(grid).every
        return Tiles(some, some & alone if self.step > 1 else within)

    @property
    def scale(self) -> int:
        return 2 * self.size * self.step


@dataclass(frozen=True, repr=False)
class _Chunked(_Sized):
    size: int

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (self._chunk(q) == self._chunk(k))

    def tiles(self, grid: Grid) -> Tiles:
        q_first, q_last, k_first, k_last = (self._chunk(edge) for edge in grid)
        return Tiles(
            (grid.k_first <= grid.q_last) & (k_first <= q_last) & (k_last >= q_first),
            (grid.k_last <= grid.q_first) & (k_first == q_last) & (k_last == q_first),
        )

    def spans(self, query: int) -> tuple[Span, ...]:
        return (Span(query - query % self.size, query + 1),)

    def _chunk(self, positions: Tensor) -> Tensor:
        return positions.div(self.size, rounding_mode="floor")


@dataclass(frozen=True, repr=False)
class _Prefix_LM(_Sized):
    length: int

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) | (k < self.length)

    def tiles(self, grid: Grid) -> Tiles:
        return Tiles(
            (grid.k_first <= grid.q_last) | (grid.k_first < self.length),
            (grid.k_last <= grid.q_first) | (grid.k_last < self.length),
        )

    def spans(self, query: int) -> tuple[Span, ...]:
        return (Span(0, max(query + 1, self.length)),)


def everything() -> Pattern:
    """Every key, later ones too: attention without a mask."""
    return _Everything()


def causal() -> Pattern:
    """Every key up to the query's own position."""
    return _Causal()


@known_keywords
def sliding(size: int, future: int = 0) -> Pattern:
    """The `size` latest keys, including the query's own, and `future` later ones.

    Source: Longformer, https://arxiv.org/abs/2004.05150, section 3.1.
    """
    return _Sliding(_at_least("sliding", "size", size), _at_least("sliding", "future", future, 0))


@known_keywords
def sinks(count: int) -> Pattern:
    """The first `count` keys, but none after the query.

    Source: StreamingLLM, https://arxiv.org/abs/2309.17453.
    """
    return _Sinks(_at_least("sinks", "count", count))


@known_keywords
def dilated(size: int, step: int) -> Pattern:
    """`size` keys that are `step` apart: the query's own and earlier ones.

    Source: Longformer, https://arxiv.org/abs/2004.05150, section 3.1.
    """
    return Dilated(_at_least("dilated", "size", size), _at_least("dilated", "step", step))


@known_keywords
def chunked(size: int) -> Pattern:
    """The keys in the query's own chunk of `size` tokens, up to the query's position.

    For a window that evicts whole chunks, use the policy: `pattern(Chunked(4096, chunk=128))`.
    """
    return _Chunked(_at_least("chunked", "size", size))


@known_keywords
def prefix_lm(length: int) -> Pattern:
    """Causal, but the first `length` keys are visible to all queries, earlier ones too.

    Source: T5, https://arxiv.org/abs/1910.10683, section 3.2.1.
    """
    return _Prefix_LM(_at_least("prefix_lm", "length", length))


def _at_least(owner: str, name: str, value: int, minimum: int = 1) -> int:
    return whole_number(owner, name, value, minimum)

"""A pattern with its positions shifted, for texts whose first keys are gone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from transom.attention.patterns.base import Around, Pattern
from transom.attention.patterns.mask_function import Grid, Tiles
from transom.policies import Span

__all__ = ["shifted"]


@dataclass(frozen=True, repr=False)
class _Shifted(Around):
    by: int

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return self.pattern(b, h, q + self.by, k + self.by)

    def tiles(self, grid: Grid) -> Tiles:
        return self.pattern.tiles(Grid(*(edge + self.by for edge in grid)))

    def spans(self, query: int) -> tuple[Span, ...] | None:
        spans = self.pattern.spans(query + self.by)
        if spans is None:
            return None
        moved = (Span(max(0, start - self.by), stop - self.by) for start, stop in spans)
        return tuple(span for span in moved if span.start < span.stop)

    @property
    def limit(self) -> int | None:
        return None if self.pattern.limit is None else self.pattern.limit - self.by

    def __repr__(self) -> str:
        return f"({self.pattern!r} from {self.by:,} on)"


def shifted(pattern: Pattern, by: int) -> Pattern:
    """The same pattern, where query and key 0 stand for position `by`."""
    return _Shifted(pattern, by) if by else pattern

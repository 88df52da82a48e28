"""Policies by position: closed forms that say which positions a query sees."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from transom.policies.base import Policy

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Positional", "PositionsT", "Span"]

PositionsT = TypeVar("PositionsT", int, NDArray[np.integer], "Tensor")


class Span(NamedTuple):
    """A half-open range of token positions, `start <= position < stop`."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Positional(Policy):
    """Two numbers and one function say which tokens are visible.

    The first `pinned` tokens are never evicted, at most `capacity` tokens are visible at once, and
    `local_start(q)` is the first of the recent tokens of query `q`. Mask, spans, evicted tokens and
    bytes all follow from these, and are derived here, once.

    Positions count real tokens from 0; padding has no position. The arithmetic uses only
    operators, so ints, numpy arrays and torch tensors all work and broadcast.
    """

    @abstractmethod
    def local_start(self, q: PositionsT) -> PositionsT:
        """First position of the recent span that query `q` sees; may be negative early on.

        It must never decrease as `q` grows: an evicted token stays evicted.
        """

    @overload
    def visible(self, q: int, k: int) -> bool: ...

    @overload
    def visible(self, q: NDArray[np.integer], k: NDArray[np.integer]) -> NDArray[np.bool]: ...

    @overload
    def visible(self, q: Tensor, k: Tensor) -> Tensor: ...

    def visible(self, q: PositionsT, k: PositionsT) -> int | NDArray[np.bool] | Tensor:
        """May the query at position `q` see the key at position `k`? Elementwise, causal.

        >>> from transom.policies import Sinks
        >>> [k for k in range(9) if Sinks(1, window=3).visible(8, k)]
        [0, 6, 7, 8]
        """
        return (k <= q) & ((k < self.pinned) | (k >= self.local_start(q)))

    def gap(self, q: PositionsT) -> PositionsT:
        """How many tokens between the pinned and the recent ones are evicted, for query `q`.

        It is also how far the pinned keys must move so that distances stay within the
        policy's size: the *compact* position of a pinned key is its own position plus this gap.
        """
        hidden = self.local_start(q) - self.pinned
        return hidden * (hidden > 0)

    def spans(self, seen: int) -> tuple[Span, ...]:
        """The visible spans after `seen` tokens, oldest first, none of them empty.

        These are the positions that the newest token, at `seen - 1`, may see.

        >>> from transom.policies import Sinks
        >>> Sinks(4, window=8).spans(100)
        (Span(start=0, stop=4), Span(start=92, stop=100))
        """
        if seen <= 0:
            return ()
        start = max(0, int(self.local_start(seen - 1)))
        if start <= self.pinned:
            return (Span(0, seen),)
        local = Span(start, seen)
        return (Span(0, self.pinned), local) if self.pinned else (local,)

    def kept(self, seen: int) -> int:
        return sum(len(span) for span in self.spans(seen))

    @property
    def decides_by(self) -> str:
        return "position"

    def visible_pairs(self, start: int, stop: int) -> int:
        queries = np.arange(start, stop, dtype=np.int64)
        return int((queries + 1 - self.gap(queries)).sum())

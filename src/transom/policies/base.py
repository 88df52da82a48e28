"""What every policy is: a frozen value that says which past tokens a new token may see."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

from transom.checks import whole_number
from transom.errors import PolicyError

__all__ = ["Policy", "Span"]


class Span(NamedTuple):
    """A half-open range of token positions, `start <= position < stop`."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Policy(ABC):
    """Which past tokens a new token may see.

    A policy by position is two numbers and one function: its first `pinned` tokens are never
    evicted, at most `capacity` tokens are visible at once, and `local_start(q)` is where the
    recent tokens of query `q` begin. Everything else, the mask, the spans, what has been
    dropped, how many bytes it all takes, follows from those and is derived here, once.

    Positions count real tokens from 0; padding has no position. The arithmetic uses only
    operators, so ints, numpy arrays and torch tensors all work and broadcast.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    @property
    @abstractmethod
    def capacity(self) -> int | None:
        """The most tokens visible at once, the query's own included; None without a bound."""

    @property
    def pinned(self) -> int:
        """How many of the first tokens are never evicted."""
        return 0

    @abstractmethod
    def local_start(self, q: Any) -> Any:
        """First position of the recent span that query `q` sees; may be negative early on.

        Must never fall as `q` grows: a token once evicted stays evicted.
        """

    def visible(self, q: Any, k: Any) -> Any:
        """May the query at position `q` see the key at position `k`? Elementwise, causal.

        >>> from transom.policies import Sinks
        >>> [k for k in range(9) if Sinks(1, window=3).visible(8, k)]
        [0, 6, 7, 8]
        """
        return (k <= q) & ((k < self.pinned) | (k >= self.local_start(q)))

    def gap(self, q: Any) -> Any:
        """How many tokens lie evicted between the pinned and the recent ones, for query `q`.

        It is also how far the pinned keys must move so that distances stay within the
        policy's size: their *compact* position is their own plus this gap.
        """
        hidden = self.local_start(q) - self.pinned
        return hidden * (hidden > 0)

    def spans(self, seen: int) -> tuple[Span, ...]:
        """The visible spans once `seen` tokens have been seen, oldest first, none empty.

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
        """How many of `seen` tokens are still visible."""
        return sum(len(span) for span in self.spans(seen))

    def __str__(self) -> str:
        """The policy's spelling, which `parse` reads back to an equal policy."""
        items = [f"{spelled(field.name)}={getattr(self, field.name)}" for field in fields(self)]
        if not items:
            return self.name
        items[0] = items[0].partition("=")[2]
        return f"{self.name}:{','.join(items)}"


def spelled(field: str) -> str:
    """A field's key in a policy's text: Python's trailing underscore is left out."""
    return field.rstrip("_")


def at_least(policy: Policy, field: str, minimum: int) -> None:
    """Check an integer parameter of `policy` in its `__post_init__`.

    Raises:
        PolicyError: naming the policy, the parameter, what came and what was expected.
    """
    whole_number(policy.name, spelled(field), getattr(policy, field), minimum, error=PolicyError)

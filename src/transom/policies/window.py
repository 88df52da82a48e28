"""`window`: the most recent tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from transom.policies.base import at_least
from transom.policies.positional import Positional, PositionsT

__all__ = ["Window"]


@dataclass(frozen=True)
class Window(Positional):
    """The `size` most recent tokens, with the query's own.

    Models trained with full attention attend much to the first tokens, so the loss rises once those
    leave the window (see `Sinks`).

    Source: Longformer, https://arxiv.org/abs/2004.05150, section 3.1.

    >>> Window(4).spans(10)
    (Span(start=6, stop=10),)
    """

    size: int = 1024

    name: ClassVar[str] = "window"
    summary: ClassVar[str] = "keeps the most recent tokens"

    def check(self) -> None:
        at_least(self, "size", 1)

    @property
    def capacity(self) -> int:
        return self.size

    def local_start(self, q: PositionsT) -> PositionsT:
        return q - self.size + 1

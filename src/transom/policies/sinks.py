"""`sinks`: the first few tokens and the most recent ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from transom.policies.base import at_least
from transom.policies.positional import Positional, PositionsT

__all__ = ["Sinks"]


@dataclass(frozen=True)
class Sinks(Positional):
    """The first `sinks` tokens, for ever, and the `window` most recent ones.

    The first tokens take up attention that the model directs at no other token. With a few of them
    kept, the loss stays flat at any length.

    Source: StreamingLLM, https://arxiv.org/abs/2309.17453.

    >>> Sinks(4, window=1020).capacity
    1024
    """

    sinks: int = 4
    window: int = 1020

    name: ClassVar[str] = "sinks"
    summary: ClassVar[str] = "keeps the first few tokens and the most recent ones"

    def check(self) -> None:
        at_least(self, "sinks", 1)
        at_least(self, "window", 1)

    @property
    def capacity(self) -> int:
        return self.sinks + self.window

    @property
    def pinned(self) -> int:
        return self.sinks

    def local_start(self, q: PositionsT) -> PositionsT:
        return q - self.window + 1

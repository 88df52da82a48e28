"""`full`: see everything, keep everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from transom.policies.positional import Positional, PositionsT

__all__ = ["Full"]


@dataclass(frozen=True)
class Full(Positional):
    """Every past token stays visible: ordinary causal attention, with unbounded memory.

    >>> Full().kept(100_000)
    100000
    """

    name: ClassVar[str] = "full"
    summary: ClassVar[str] = "keeps every token; memory grows with the text"

    @property
    def capacity(self) -> None:
        return None

    def local_start(self, q: PositionsT) -> PositionsT:
        return q * 0

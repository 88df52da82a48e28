"""`chunked`: recent tokens, evicted a whole chunk at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from transom.errors import PolicyError
from transom.policies.base import at_least
from transom.policies.positional import Positional, PositionsT

__all__ = ["Chunked"]


@dataclass(frozen=True)
class Chunked(Positional):
    """Recent tokens in chunks of `chunk` tokens; the oldest chunk is evicted whole.

    Chunks are aligned to the start of the text. Never more than `max_length` tokens are visible,
    and once the text is longer than that, never fewer than `max_length - chunk + 1`.

    >>> policy = Chunked(8, chunk=4)
    >>> policy.spans(8), policy.spans(9)
    ((Span(start=0, stop=8),), (Span(start=4, stop=9),))
    """

    max_length: int = 1024
    chunk: int = 128

    name: ClassVar[str] = "chunked"
    summary: ClassVar[str] = "keeps recent tokens, and evicts the oldest a whole chunk at a time"

    def check(self) -> None:
        at_least(self, "max_length", 1)
        at_least(self, "chunk", 1)
        if self.chunk > self.max_length:
            raise PolicyError(
                f"chunked: chunk is {self.chunk} and max_length {self.max_length}; "
                "a chunk must fit, so expected chunk <= max_length."
            )

    @property
    def capacity(self) -> int:
        return self.max_length

    def local_start(self, q: PositionsT) -> PositionsT:
        overflow = q + 1 - self.max_length
        return -(-overflow // self.chunk) * self.chunk

"""What turns text into ids."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from transom.tokens.ids import TokenIds

__all__ = ["Backend"]


class Backend(ABC):
    """Turns texts into ids, without special ids around them. Safe for use from several threads.

    Attributes:
        name: of the library.
        block: characters of a text for which it is at its fastest.
        threads: whether it gains from being called by several threads; else it starts its own.
    """

    name: ClassVar[str]
    block: ClassVar[int]
    threads: ClassVar[bool]

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """The ids of each text by itself, `(tokens,)` of some integer dtype."""

"""The base of the libraries that turn text into ids."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from transom.tokens.ids import TokenIds

__all__ = ["Backend"]


class Backend(ABC):
    """Turns texts into ids, without special ids around them. Safe for use from several threads.

    Attributes:
        name: name of the library.
        block: the characters per text at which it is fastest.
        threads: whether calling it from several threads makes it faster; else it starts its own.
    """

    name: ClassVar[str]
    block: ClassVar[int]
    threads: ClassVar[bool]

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """The ids of each text by itself, `(tokens,)` of some integer dtype."""

"""`hierarchical`: recent tokens in two tiers, local and global."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from transom.policies.base import at_least
from transom.policies.positional import Positional

__all__ = ["Hierarchical"]


@dataclass(frozen=True)
class Hierarchical(Positional):
    """The `local` most recent tokens, and the `global_` tokens before those.

    Both tiers are visible, so to a model this is a window of their sum; what differs is who holds
    which tokens, see `transom.windows.HierarchicalContext`.

    >>> Hierarchical(local=2, global_=3).spans(10)
    (Span(start=5, stop=10),)
    """

    local: int = 512
    global_: int = 2048

    name: ClassVar[str] = "hierarchical"
    summary: ClassVar[str] = "keeps recent tokens as local, and those before them as global"

    def check(self) -> None:
        at_least(self, "local", 1)
        at_least(self, "global_", 1)

    @property
    def capacity(self) -> int:
        return self.local + self.global_

    def local_start(self, q: Any) -> Any:
        return q - self.capacity + 1

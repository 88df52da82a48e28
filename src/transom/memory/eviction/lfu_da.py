"""Least frequently used, with dynamic aging."""

from __future__ import annotations

from typing import ClassVar

from transom.memory.eviction.valued import Valued

__all__ = ["LFUDA"]


class LFUDA(Valued):
    """The key used least often leaves first; what was used often but long ago loses its rank.

    A use gives a key as many points as it has had uses, above the points of the last victim.
    From Arlitt, Cherkasova, Dilley, Friedrich and Jin, "Evaluating content management techniques
    for Web proxy caches" (https://doi.org/10.1145/346000.346003).

    >>> lfu = LFUDA(capacity=300)
    >>> for key in "aab":
    ...     lfu.touch(key) if key in lfu else lfu.add(key, size=100)
    >>> lfu.victim()
    'b'
    """

    name: ClassVar[str] = "lfu-da"
    summary: ClassVar[str] = "least frequently used, ageing"

    def _worth(self, size: int, cost: float) -> float:
        return 1.0

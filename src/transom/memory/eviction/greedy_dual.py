"""The key that saves the least time per byte leaves first."""

from __future__ import annotations

from typing import ClassVar

from transom.memory.eviction.valued import Valued

__all__ = ["GreedyDual"]


class GreedyDual(Valued):
    """The key whose uses save the fewest seconds per byte leaves first; old uses count less.

    A use gives a key `uses * cost / size` points above the points of the last victim: GreedyDual
    with size and frequency, from Cherkasova, "Improving WWW proxies performance with
    greedy-dual-size-frequency caching policy" (HPL-98-69R1), after Cao and Irani, "Cost-aware WWW
    proxy caching algorithms" (USENIX USITS 1997). A key whose cost is not known, 0, leaves before
    all others.

    >>> greedy = GreedyDual(capacity=300)
    >>> greedy.add("long to compute", size=200, cost=9.0)
    >>> greedy.add("quick", size=100, cost=0.5)
    >>> greedy.victim()
    'quick'
    """

    name: ClassVar[str] = "greedy-dual"
    summary: ClassVar[str] = "fewest seconds saved per byte"

    def _worth(self, size: int, cost: float) -> float:
        return cost / max(1, size)

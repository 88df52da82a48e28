"""The key that is least likely to be used again soon leaves first, judged by past uses."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Hashable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from transom.memory.eviction.base import KEY, NUMBER, PAIR, Eviction, MayGo, Newcomer
from transom.memory.eviction.order import Order

__all__ = ["ReuseOdds"]

CLASSES = (2, 3, 4, 6, 9)  # uses with which a key enters the next class
BINS = 8  # ages per capacity: bytes added, as many as the tier holds
SPAN = 4  # capacities after which ages are not told apart, and evicted keys are forgotten
FITS = 4  # how often the odds are computed again per capacity
KEPT = 0.95  # factor of all counts each time
PRIOR = 1e-3  # uses, falling with age: before anything is known, this is LRU


class ReuseOdds(Eviction):
    """The key that is least likely to be used again soon leaves first.

    Keys are in classes by how often they were used. In each class the key unused for longest may
    leave. Its odds are how often keys of its class and age were used again before as many bytes
    were added as the tier holds. Evicted keys are remembered, so that the odds are also known for
    ages that no held key reaches.

    This policy is transom's own. Choosing victims by measured odds of ages and classes is from
    Beckmann, Chen and Cidon, "LHD: improving cache hit rate by maximizing hit density" (USENIX NSDI
    2018). Remembering evicted keys is from ARC. The odds are the estimate of Kaplan and Meier
    (https://doi.org/10.1080/01621459.1958.10501452), with counts that fade.

    >>> odds = ReuseOdds(capacity=300)
    >>> for key in "abc":
    ...     odds.add(key, size=100)
    >>> odds.touch("a")
    >>> odds.victim()
    'b'
    """

    name: ClassVar[str] = "reuse-odds"
    summary: ClassVar[str] = "least likely to be used again soon, learnt from uses so far"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._uses = 0
        self._added = 0  # bytes, which ages are measured in
        self._width = capacity / BINS  # bytes per age
        self._next_fit = capacity / FITS
        self._last: dict[Hashable, tuple[int, int]] = {}  # `_added` at the last use, and uses
        self._gone: OrderedDict[Hashable, tuple[int, int, int]] = OrderedDict()  # and the size
        self._gone_bytes = 0
        self._orders = [Order[float](self._pins) for _ in range(len(CLASSES) + 1)]
        self._entered = [0.0] * len(self._orders)
        self._again = [[0.0] * (BINS * SPAN) for _ in self._orders]  # uses by class and age
        self._odds = odds_of(self._entered, self._again).tolist()

    @property
    def nbytes(self) -> int:
        held = sys.getsizeof(self._last) + (PAIR + NUMBER) * len(self._last)
        gone = sys.getsizeof(self._gone) + (KEY + PAIR + 2 * NUMBER) * len(self._gone)
        return super().nbytes + held + gone + sum(order.nbytes for order in self._orders)

    def _add(self, key: Hashable, size: int, cost: float) -> None:
        known = self._gone.pop(key, None)
        uses = 0
        if known is not None:
            last, uses, former_size = known
            self._gone_bytes -= former_size
            self._count(last, uses)
        self._added += size
        self._enter(key, uses)
        if self._added >= self._next_fit:
            self._next_fit = self._added + self.capacity / FITS
            self._fit()

    def _touch(self, key: Hashable) -> None:
        last, uses = self._last[key]
        self._count(last, uses)
        self._enter(key, uses)

    def _unpinned(self, key: Hashable) -> None:
        self._orders[class_of(self._last[key][1])].unpinned(key)

    def _victim(self, newcomer: Newcomer | None, may_go: MayGo | None) -> Hashable | None:
        found, least = None, (2.0, 0)
        for order, odds in zip(self._orders, self._odds, strict=True):
            key = order.first(may_go) if len(order) else None
            if key is not None:
                last = self._last[key][0]
                worth = (odds[self._age(last)], last)
                if worth < least:
                    found, least = key, worth
        return found

    def _remove(self, key: Hashable, size: int, evicted: bool) -> None:
        last, uses = self._last.pop(key)
        self._orders[class_of(uses)].forget(key)
        if evicted:
            self._gone[key] = (last, uses, size)
            self._gone_bytes += size
            while self._gone_bytes > SPAN * self.capacity:
                self._gone_bytes -= self._gone.popitem(last=False)[1][2]

    def _age(self, last: int) -> int:
        return min(BINS * SPAN - 1, int((self._added - last) / self._width))

    def _count(self, last: int, uses: int) -> None:
        self._again[class_of(uses)][self._age(last)] += 1

    def _enter(self, key: Hashable, uses: int) -> None:
        """`key`, used `uses` times before, is used now."""
        self._uses += 1
        was, now = class_of(uses), class_of(uses + 1)
        self._entered[now] += 1
        self._last[key] = (self._added, uses + 1)
        if was == now and key in self._orders[now]:
            self._orders[now].put_back(key, self._uses)
        else:
            self._orders[was].forget(key)
            self._orders[now].put(key, self._uses)

    def _fit(self) -> None:
        self._odds = odds_of(self._entered, self._again).tolist()
        self._entered = [KEPT * count for count in self._entered]
        self._again = [[KEPT * count for count in counts] for counts in self._again]


def class_of(uses: int) -> int:
    """The class of keys that were used so often."""
    return bisect_right(CLASSES, uses)


def odds_of(entered: list[float], again: list[list[float]]) -> NDArray[np.float64]:
    """How likely a key is used before a capacity more is added, `(class, age)`.

    Args:
        entered: how many keys entered each class.
        again: how many of them were used again, and so left it, at each age, `(class, age)`.
    """
    uses = np.asarray(again)
    ages = uses.shape[1]
    before = np.concatenate([np.zeros((len(uses), 1)), np.cumsum(uses, axis=1)], axis=1)
    at_risk = np.maximum(np.asarray(entered)[:, None] - before[:, :-1], 0)
    soon = before[:, np.minimum(np.arange(ages) + BINS, ages)] - before[:, :-1]
    odds: NDArray[np.float64] = (soon + PRIOR * (1 - np.arange(ages) / ages)) / (at_risk + 1)
    return np.minimum(odds, 1.0)

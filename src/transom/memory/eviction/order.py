"""Keys in the order of their ranks, without those that are pinned."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Container, Hashable
from heapq import heappop, heappush
from typing import Generic, TypeVar

from transom.memory.eviction.base import NUMBER, PAIR, MayGo

__all__ = ["Order"]

Rank = TypeVar("Rank", float, tuple[float, int])


class Order(Generic[Rank]):
    """Keys by rank, the lowest first, in a lazy queue.

    Raising a rank only changes a dictionary, so items of the queue may be out of date. A pinned key
    that comes to the front is taken out until it is unpinned. Each key that is not pinned has an
    item with its rank or a lower one. `first` finds and corrects those that are out of date. Items
    that come in the order of their ranks are in a line, others in a heap.

    Args:
        pinned: keys that `first` passes over.
        rank_bytes: bytes of memory that a rank takes, for `nbytes`.
    """

    def __init__(self, pinned: Container[Hashable], rank_bytes: int = NUMBER) -> None:
        self._pinned = pinned
        self._rank_bytes = rank_bytes
        self._ranks: dict[Hashable, Rank] = {}
        self._line: deque[tuple[Rank, Hashable]] = deque()
        self._heap: list[tuple[Rank, Hashable]] = []
        self._raised = 0  # an upper bound of the items that are out of date

    def put(self, key: Hashable, rank: Rank) -> None:
        """Put `key`, which may be new, at `rank`, which no other key has."""
        self._ranks[key] = rank
        self._push(key, rank)

    def put_back(self, key: Hashable, rank: Rank) -> None:
        """Like `put`, for a key that is here, with a rank that is not lower. Takes O(1)."""
        self._ranks[key] = rank
        self._raised += 1

    def unpinned(self, key: Hashable) -> None:
        """The last pin of `key`, which is here, was taken off."""
        self._push(key, self._ranks[key])

    def forget(self, key: Hashable) -> None:
        """Forget `key`, if it is here."""
        self._ranks.pop(key, None)

    def rank(self, key: Hashable) -> Rank:
        """The rank of `key`."""
        return self._ranks[key]

    def first(self, may_go: MayGo | None = None) -> Hashable | None:
        """The key with the lowest rank that is not pinned and that `may_go` accepts, or None."""
        line, heap, ranks = self._line, self._heap, self._ranks
        refused = []
        found = None
        while line or heap:
            in_line = not heap or (bool(line) and line[0][0] <= heap[0][0])
            entered, key = line[0] if in_line else heap[0]
            rank = ranks.get(key)
            if rank == entered and key not in self._pinned:
                if may_go is None or may_go(key):
                    found = key
                    break
                refused.append((entered, key))
            if in_line:
                line.popleft()
            else:
                heappop(heap)
            if rank is not None and rank > entered and key not in self._pinned:
                self._enter(key, rank)
                self._raised = max(0, self._raised - 1)
        for entry in refused:
            heappush(heap, entry)
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of memory taken, without the keys."""
        entries = len(self._line) + len(self._heap)
        tables = sys.getsizeof(self._ranks) + sys.getsizeof(self._line) + sys.getsizeof(self._heap)
        # An item shares the rank of its key, unless it is out of date.
        ranks = max(len(self._ranks), entries) + min(len(self._ranks), self._raised)
        return tables + self._rank_bytes * ranks + PAIR * entries

    def __len__(self) -> int:
        return len(self._ranks)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._ranks

    def _push(self, key: Hashable, rank: Rank) -> None:
        self._enter(key, rank)
        if len(self._line) + len(self._heap) > 2 * len(self._ranks) + 64:
            free = ((rank, key) for key, rank in self._ranks.items() if key not in self._pinned)
            self._line = deque(sorted(free, key=lambda entry: entry[0]))
            self._heap = []
            self._raised = 0

    def _enter(self, key: Hashable, rank: Rank) -> None:
        line = self._line
        if not line or rank > line[-1][0]:
            line.append((rank, key))
        else:
            heappush(self._heap, (rank, key))

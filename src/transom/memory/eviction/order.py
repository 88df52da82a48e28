"""Keys in the order of a rank, of which those that are pinned are looked past at no cost."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Container, Hashable
from heapq import heappop, heappush
from typing import Any

from transom.memory.eviction.base import NUMBER, PAIR, MayGo

__all__ = ["Order"]


class Order:
    """Keys by rank, lowest first.

    A queue that is put right only where it is looked at: raising a rank changes a dictionary, and
    a pinned key that comes to the front is dropped until it is unpinned. Each key that is not
    pinned has an entry of its rank or a lower one; entries beyond that are found out in `first`.
    Entries that come in the order of their ranks wait in a line, others in a heap.

    Args:
        pinned: which keys `first` passes over.
        rank_bytes: memory that a rank takes, for `nbytes`.
    """

    def __init__(self, pinned: Container[Hashable], rank_bytes: int = NUMBER) -> None:
        self._pinned = pinned
        self._rank_bytes = rank_bytes
        self._ranks: dict[Hashable, Any] = {}
        self._line: deque[tuple[Any, Hashable]] = deque()
        self._heap: list[tuple[Any, Hashable]] = []
        self._raised = 0  # ranks that were raised since they were entered, or more

    def put(self, key: Hashable, rank: Any) -> None:
        """Place `key`, which may be new, at `rank`. No two keys may have the same."""
        self._ranks[key] = rank
        self._push(key, rank)

    def put_back(self, key: Hashable, rank: Any) -> None:
        """Like `put`, of a key that is here, with a rank no lower than before; takes O(1)."""
        self._ranks[key] = rank
        self._raised += 1

    def unpinned(self, key: Hashable) -> None:
        """`key`, which is here, is not pinned any longer."""
        self._push(key, self._ranks[key])

    def discard(self, key: Hashable) -> None:
        """Forget `key`, if it is here."""
        self._ranks.pop(key, None)

    def rank(self, key: Hashable) -> Any:
        """Where `key` is."""
        return self._ranks[key]

    def first(self, may_go: MayGo | None = None) -> Hashable | None:
        """The key of the lowest rank that is not pinned and that `may_go` lets go, or None."""
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
        """Bytes of memory taken, the keys left out."""
        entries = len(self._line) + len(self._heap)
        tables = sys.getsizeof(self._ranks) + sys.getsizeof(self._line) + sys.getsizeof(self._heap)
        # An entry has the very rank of its key, unless that was raised since.
        ranks = max(len(self._ranks), entries) + min(len(self._ranks), self._raised)
        return tables + self._rank_bytes * ranks + PAIR * entries

    def __len__(self) -> int:
        return len(self._ranks)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._ranks

    def _push(self, key: Hashable, rank: Any) -> None:
        self._enter(key, rank)
        if len(self._line) + len(self._heap) > 2 * len(self._ranks) + 64:
            free = ((rank, key) for key, rank in self._ranks.items() if key not in self._pinned)
            self._line = deque(sorted(free, key=lambda entry: entry[0]))
            self._heap = []
            self._raised = 0

    def _enter(self, key: Hashable, rank: Any) -> None:
        line = self._line
        if not line or rank > line[-1][0]:
            line.append((rank, key))
        else:
            heappush(self._heap, (rank, key))

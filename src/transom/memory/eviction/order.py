"""Keys in the order of a rank, of which those that are pinned are looked past at no cost."""

from __future__ import annotations

import sys
from collections.abc import Container, Hashable
from heapq import heapify, heappop, heappush
from typing import Any

from transom.memory.eviction.base import NUMBER, PAIR, MayGo

__all__ = ["Order"]


class Order:
    """Keys by rank, lowest first.

    A heap that is put right only where it is looked at: raising a rank changes a dictionary, and
    a pinned key that comes to the front is dropped until it is unpinned. Each key that is not
    pinned has an entry of its rank or a lower one; entries beyond that are found out in `first`.

    Args:
        pinned: which keys `first` passes over.
        rank_bytes: memory that a rank takes, for `nbytes`.
    """

    def __init__(self, pinned: Container[Hashable], rank_bytes: int = NUMBER) -> None:
        self._pinned = pinned
        self._rank_bytes = rank_bytes
        self._ranks: dict[Hashable, Any] = {}
        self._heap: list[tuple[Any, Hashable]] = []

    def put(self, key: Hashable, rank: Any) -> None:
        """Place `key`, which may be new, at `rank`. No two keys may have the same."""
        self._ranks[key] = rank
        self._push(key, rank)

    def put_back(self, key: Hashable, rank: Any) -> None:
        """Like `put`, of a key that is here, with a rank no lower than before; takes O(1)."""
        self._ranks[key] = rank

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
        heap, ranks = self._heap, self._ranks
        refused = []
        found = None
        while heap:
            entered, key = heap[0]
            rank = ranks.get(key)
            if rank is None or key in self._pinned:
                heappop(heap)
            elif rank != entered:
                heappop(heap)
                if rank > entered:
                    heappush(heap, (rank, key))
            elif may_go is None or may_go(key):
                found = key
                break
            else:
                refused.append(heappop(heap))
        for entry in refused:
            heappush(heap, entry)
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of memory taken, the keys left out."""
        ranks = self._rank_bytes * (len(self._ranks) + len(self._heap))
        return (
            sys.getsizeof(self._ranks) + sys.getsizeof(self._heap) + ranks + PAIR * len(self._heap)
        )

    def __len__(self) -> int:
        return len(self._ranks)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._ranks

    def _push(self, key: Hashable, rank: Any) -> None:
        heappush(self._heap, (rank, key))
        if len(self._heap) > 2 * len(self._ranks) + 64:
            self._heap = [
                (rank, key) for key, rank in self._ranks.items() if key not in self._pinned
            ]
            heapify(self._heap)

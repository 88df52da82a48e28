"""An entry store under its locks: everything that concerns all contexts at once."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Self, TypeVar

from transom.errors import StoreError
from transom.forks import Owner
from transom.memory.accounting import contexts, report_activity, stats
from transom.memory.activity import EVERY
from transom.memory.build import exclusive
from transom.memory.byte_budget import ByteBudget
from transom.memory.contexts import Contexts
from transom.memory.entry import Entry
from transom.memory.remote import Remote
from transom.memory.rest import ChangedError
from transom.memory.stats import ContextInfo, Stats, Verified
from transom.memory.sync import sync_from_tier
from transom.memory.verification import verified
from transom.validation import check_texts, known_keywords, whole_number

__all__ = ["LockedStore"]

FoundT = TypeVar("FoundT")


@known_keywords
class LockedStore:
    """The contexts of a manager, safe for use by several threads and processes.

    Every call takes the lock between threads, and learns what other processes did. A call that
    changes something on disk takes the lock between processes as well.
    """

    def __init__(self, contexts: Contexts, budget: ByteBudget, remote: Remote | None) -> None:
        self._contexts = contexts
        self._store = contexts.store
        self._budget = budget
        self._remote = remote
        self._closed = False
        self._released: deque[Entry] = deque()  # entries whose pins were closed
        self._report_at = 0.0
        self._process = Owner(f"this {type(self).__name__}", StoreError)
        self._threads = threading.RLock()
        self._exclusive = exclusive(self._store)
        with self._exclusive:
            sync_from_tier(self._store, first=True)

    def stats(self) -> Stats:
        """Counts and bytes at this moment."""
        with self._lock:
            self._catch_up()
            remote = self._remote
            shared = None if remote is None else remote.tier
            return stats(self._contexts, self._budget, shared, remote.hits if remote else 0)

    def contexts(self) -> Iterator[ContextInfo]:
        """Every context held at this moment."""
        with self._lock:
            self._catch_up()
            return iter(contexts(self._store))

    def verify(self) -> Verified:
        """Read everything, remove what is damaged, and count again what is counted."""
        with self._lock, self._exclusive:
            self._catch_up()
            return verified(self._store, self._budget)

    def evict(self, size: int) -> int:
        """Evict contexts from every tier, those worth the least first.

        Args:
            size: bytes to evict, or more.

        Returns:
            Bytes that were evicted; fewer than `size` when nothing more may leave.
        """
        with self._lock, self._exclusive:
            self._catch_up()
            wanted = whole_number("evict", "size", size, 0, unit="bytes")
            return self._store.placement.evict_bytes(wanted)

    def clear(self, *, namespace: str | None = None) -> int:
        """Remove all contexts, or those of one namespace; how many there were."""
        check_texts(type(self).__name__, "", "" if namespace is None else namespace)
        with self._lock, self._exclusive:
            self._catch_up()
            spaces = self._store.tables.spaces
            chosen = [s for name, s in spaces.items() if namespace is None or name == namespace]
            known = sum(self._store.lifecycle.clear(space) for space in chosen)
            return known + self._store.unknown.clear(namespace)

    def flush(self) -> None:
        """Write everything to disk, as far as there is room, safe from a loss of power."""
        with self._lock, self._exclusive:
            self._catch_up()
            self._store.placement.save()
            for tier in self._store.tables.tiers:
                tier.payloads.flush()

    def close(self) -> None:
        """Close all tiers. What is on disk stays; with write-back, everything is written first."""
        if not self._process.is_here:
            self._closed = True  # In a fork: everything belongs to the parent.
            return
        with self._lock:
            if self._closed:
                return
            with self._exclusive:
                self._catch_up()
                if not self._store.placement.through:
                    self._store.placement.save()
            self._closed = True
            for tier in self._store.tables.tiers:
                tier.payloads.close()
            if self._remote is not None:
                self._remote.tier.close()

    @property
    def refusal(self) -> str | None:
        """Why the last context or state that did not fit was not added."""
        return self._contexts.refusal

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        with self._lock:
            self._catch_up()
            return self._store.tables.contexts

    def __repr__(self) -> str:
        count = self._store.tables.contexts
        size = f"{self._budget.bytes:,} of {self._budget.capacity:,} bytes"
        return f"<{type(self).__name__}: {count:,} contexts, {size}>"

    # Under the lock

    @property
    def _lock(self) -> threading.RLock:
        """The lock between threads. It is refused in a fork, where its holder may not exist."""
        self._process.check()
        return self._threads

    def _read(self, read: Callable[[], FoundT]) -> FoundT:
        """What `read` returns, while no other process changes what it reads."""
        with self._lock:
            # Reading may evict from memory, with write-back to disk: then take both locks at once.
            if self._store.placement.through:
                try:
                    self._catch_up()
                    return read()
                except ChangedError:
                    pass
            with self._exclusive:
                self._catch_up()
                return read()

    def _catch_up(self) -> None:
        """Learn what other processes did, and do what has become due.

        Raises:
            StoreError: when the store is closed.
        """
        if self._closed:
            raise StoreError(f"this {type(self).__name__} was closed; make another one.")
        if self._released:
            self._unpin_released()
        if self._store.tables.slow is not None:
            sync_from_tier(self._store)
            if time.monotonic() >= self._report_at:
                self._report()
        self._store.rest.put_to_rest()
        if self._store.lifecycle.next_expiry <= time.monotonic():
            with self._exclusive:
                sync_from_tier(self._store)
                self._store.lifecycle.expire()

    def _report(self) -> None:
        """Tell `transom top` what this process does."""
        self._report_at = time.monotonic() + EVERY
        report_activity(self._contexts, self._budget.capacity)

    def _unpin_released(self) -> None:
        """Unpin the entries whose pins were closed."""
        if not self._process.is_here:
            return
        with self._lock:
            while self._released and not self._closed:
                self._store.lifecycle.unpin_for_all(self._released.popleft())

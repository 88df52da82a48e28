"""Many contexts under one budget: the manager."""

from __future__ import annotations

import math
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from transom.errors import InputError, StoreError
from transom.forks import Owner
from transom.memory.accounting import contexts, report_activity, stats, verified
from transom.memory.activity import EVERY
from transom.memory.byte_budget import ByteBudget
from transom.memory.contexts import Contexts
from transom.memory.entry import Entry
from transom.memory.entry_store import EntryStore
from transom.memory.eviction import eviction as eviction_named
from transom.memory.pins import Pin
from transom.memory.remote import Remote
from transom.memory.rest import ChangedError
from transom.memory.stats import ContextInfo, Stats, Verified
from transom.memory.sync import sync_from_tier
from transom.memory.tier_with_eviction import TierWithEviction
from transom.memory.tiers.base import Payload, Tier, as_payload
from transom.memory.tiers.ram import RamTier
from transom.memory.tiers.redis import RedisTier
from transom.tokens import ANY_VOCABULARY, id_dtype
from transom.validation import (
    check_names,
    check_texts,
    given_folder,
    given_ids,
    given_quotas,
    given_seconds,
    known_keywords,
    whole_number,
)

__all__ = ["ContextMemoryManager"]

R = TypeVar("R")


@known_keywords
class ContextMemoryManager:
    """Thousands of contexts, as token ids and KV states, in as many bytes as you say.

    Contexts that start alike hold their common blocks once. When there is no room, whole contexts
    leave memory in the order that `eviction` says, those first that no other continues: down to the
    disk, if there is one, or out. The disk they leave in the order in which they were used last.
    What was evicted, expired or found damaged is a miss, which a cache has anyway; what is returned
    is always what was added last under that id.

    Args:
        max_memory: most bytes of memory, with every table and key (2**30 by default).
        disk: folder for what does not fit into memory, which outlives the process and may be used
            by several at once; None for none.
        max_disk: most bytes it may take there; None for as many as when it was opened last.
        shared: a `RedisTier` through which machines have contexts in common, under the same ids;
            every context and state is stored there as well, and what another machine has added
            since is fetched when it is asked for. What the server has forgotten is a miss, also
            where it is held, because it may have been replaced. None for none.
        write: `"through"`, and contexts go to disk when they are added; `"back"`, and they go there
            when they leave memory, and on `flush` and `close`. States of a MiB or more are written
            at once with `"through"`, and then not kept in memory but mapped.
        eviction: which policy says what leaves memory; see `transom.memory.eviction.known`.
        vocab_size: ids are below it; tokens are held in the smallest type that fits.
        block_size: tokens that contexts must have in common, from the start, to share them; they
            share whole multiples of it.
        quotas: most bytes of tokens and states that a namespace may hold, by namespace.
        ttl: seconds after which a context is gone, unless it is added with another; None for never.

    Raises:
        InputError: on settings that make no sense.
        StoreError: when the folder cannot be used; also by every method after `close`, and in a
            fork of the process that made the manager, which is to make one of its own.

    Notes:
        Safe for use from several threads: one lock, held for the length of a call.

    >>> manager = ContextMemoryManager(max_memory=2**20, vocab_size=50_000)
    >>> manager.add_context("alice/42", range(1000)), manager.get_context("alice/42")[:3]
    (True, array([0, 1, 2], dtype=uint16))
    >>> manager.longest_prefix([*range(600), 7, 8, 9])
    ('alice/42', 512)
    """

    def __init__(
        self,
        max_memory: int = 2**30,
        *,
        disk: str | os.PathLike[str] | None = None,
        max_disk: int | None = None,
        shared: RedisTier | None = None,
        write: Literal["through", "back"] = "through",
        eviction: str = "lru",
        vocab_size: int = ANY_VOCABULARY,
        block_size: int = 256,
        quotas: Mapping[str, int] | None = None,
        ttl: float | None = None,
    ) -> None:
        self._owner = owner = type(self).__name__
        self.max_memory = whole_number(owner, "max_memory", max_memory, 1, unit="bytes")
        self.vocab_size = whole_number(owner, "vocab_size", vocab_size, 1)
        self.block_size = whole_number(owner, "block_size", block_size, 1)
        self.eviction = eviction
        self.ttl = None if ttl is None else given_seconds(self._owner, "ttl", ttl)
        self.quotas = given_quotas(owner, quotas)
        self._closed = False
        self._released: deque[Entry] = deque()  # entries that pins have let go of
        self._report_at = 0.0
        self._process = Owner(f"this {owner}", StoreError)
        self._threads = threading.RLock()
        self._budget = ByteBudget(self.max_memory, owner, "max_memory")
        if disk is None and max_disk is not None:
            raise InputError(f"{owner}: max_disk is {max_disk!r}, but no folder is given as disk.")
        if write not in ("through", "back"):
            raise InputError(f"{owner}: write is {write!r}; expected 'through' or 'back'.")
        if shared is not None and not isinstance(shared, RedisTier):
            raise InputError(
                f"{owner}: shared is {shared!r}; expected a RedisTier, as RedisTier(url) makes it."
            )
        fast = TierWithEviction(RamTier(self._budget), eviction_named(eviction, self.max_memory))
        slow = None
        if disk is not None:
            tier = _disk_tier(given_folder(owner, "disk", disk), max_disk)
            slow = TierWithEviction(tier, eviction_named(eviction, tier.capacity))
        self._store = EntryStore(
            self._budget,
            fast,
            slow,
            id_dtype(self.vocab_size),
            write == "through",
            self.quotas,
            slow.tier.salt if slow is not None else secrets.randbits(63),
        )
        self._contexts = Contexts(self._store, self.block_size)
        self._remote = None if shared is None else Remote(shared, self._store.dtype)
        self._turn = nullcontext() if slow is None else slow.tier.exclusive()
        with self._turn:
            sync_from_tier(self._store, first=True)

    # Contexts

    def add_context(
        self,
        context_id: str,
        ids: Any,
        *,
        namespace: str = "",
        state: Any = None,
        cost: float = 0.0,
        ttl: float | None = None,
    ) -> bool:
        """Hold `ids` under `context_id`, in place of what was held under it.

        Args:
            context_id: any text.
            ids: token ids: a list, a range, an array or a tensor, one-dimensional.
            namespace: whose it is; contexts of different ones share nothing, not even ids.
            state: the KV state of these tokens: anything with the buffer interface.
            cost: seconds that it takes to compute the state, or the tokens, again; for eviction
                policies that weigh it.
            ttl: seconds that it is held at most.

        Returns:
            Whether it is held now. When there is no room, or it is larger than every tier, it is
            not; `refusal` then says why. What was held under the id before is gone either way.

        Raises:
            InputError: on ids, a state or settings that cannot be used; nothing is changed.
        """
        check_names(self._owner, context_id, namespace)
        array = given_ids(ids, self.vocab_size, self._store.dtype)
        payload = None if state is None else as_payload(state)
        cost = given_seconds(self._owner, "cost", cost, least=0.0) if cost != 0.0 else 0.0
        ttl = self.ttl if ttl is None else given_seconds(self._owner, "ttl", ttl)
        with self._lock, self._turn:
            self._follow()
            space = self._store.space(namespace)
            self._store.remove_context(space, context_id)
            version = self._publish(namespace, context_id, array, cost, ttl)
            held = self._contexts.add(space, context_id, array, cost, ttl, version)
            return (held or version > 0) and (
                payload is None
                or self.add_state(context_id, payload, namespace=namespace, cost=cost)
            )

    def get_context(self, context_id: str, *, namespace: str = "") -> NDArray[Any] | None:
        """The ids, `(tokens,)`, read-only, in the type that they are held in; None on a miss.

        Where nothing is shared they are not copied. While the array is alive its bytes stay
        charged, so keep a copy of what you keep.
        """
        check_texts(self._owner, context_id, namespace)
        if self._remote is not None:
            fetched = self._fetch(context_id, namespace)
            if fetched is not None:
                return fetched
        return self._read(self._contexts.get_context, context_id, namespace)

    def remove_context(self, context_id: str, *, namespace: str = "") -> bool:
        """Let go of a context and its state; whether there was one."""
        check_texts(self._owner, context_id, namespace)
        with self._lock, self._turn:
            self._follow()
            held = self._store.remove_context(self._store.space(namespace), context_id)
            if self._remote is not None:
                self._remote.remove(namespace, context_id)
            return held

    def extend(
        self,
        context_id: str,
        more_ids: Any,
        *,
        namespace: str = "",
        cost: float = 0.0,
        ttl: float | None = None,
    ) -> bool:
        """Add ids at the end of a context; like `add_context` of the old and new ids together.

        Its state, which was that of the shorter context, is let go of. False also when no such
        context is held.
        """
        check_texts(self._owner, context_id, namespace)
        array = given_ids(more_ids, self.vocab_size, self._store.dtype)
        with self._lock, self._turn:
            held = self.get_context(context_id, namespace=namespace)
            if held is None:
                self._store.remove_context(self._store.space(namespace), context_id)
                return self._contexts.refuse(
                    f"{context_id!r} is not held, so it cannot be extended"
                )
            joined = np.concatenate([held, array])
            del held  # its bytes may be used for the longer one
            return self.add_context(context_id, joined, namespace=namespace, cost=cost, ttl=ttl)

    def longest_prefix(self, ids: Any, *, namespace: str = "") -> tuple[str, int] | None:
        """The context that has most of `ids`, from the start: its id, and how many tokens.

        A whole number of blocks, which need not be prefilled again; None when not one is held.
        All that is found counts as used.
        """
        check_texts(self._owner, "", namespace)
        return self._read(
            self._contexts.longest_prefix,
            given_ids(ids, self.vocab_size, self._store.dtype),
            namespace,
        )

    def pin(self, context_id: str, *, namespace: str = "") -> Pin:
        """Keep a context from being evicted: `with manager.pin("alice/42") as ids: ...`.

        Raises:
            InputError: when it is not held.
        """
        check_texts(self._owner, context_id, namespace)
        if self._remote is not None:
            self._fetch(context_id, namespace)
        ids, entry = self._read(self._contexts.pinned, context_id, namespace)
        return Pin(ids, partial(self._released.append, entry), self._unpin)

    # States

    def add_state(
        self, context_id: str, state: Any, *, namespace: str = "", cost: float = 0.0
    ) -> bool:
        """Hold `state` beside a context that is held, in place of an earlier one.

        Args:
            context_id: whose KV state it is.
            state: anything with the buffer interface.
            namespace: as in `add_context`.
            cost: seconds that it takes to compute it again.

        Returns:
            Whether it is held now; `refusal` says why not.
        """
        check_texts(self._owner, context_id, namespace)
        payload = as_payload(state)
        cost = given_seconds(self._owner, "cost", cost, least=0.0)
        with self._lock, self._turn:
            self._follow()
            self._store.remove_state(self._store.space(namespace), context_id)
            entry = self._contexts.named(context_id, namespace)
            version = 0
            if self._remote is not None:
                version = self._remote.put(
                    namespace, context_id, payload, cost, self._left(entry), state=True
                )
            if entry is None:
                return version > 0 or self._contexts.refuse(
                    f"{context_id!r} is not held, so it can have no state"
                )
            return self._contexts.add_state(entry, payload, cost, version) or version > 0

    def get_state(self, context_id: str, *, namespace: str = "") -> Payload | None:
        """The state of a context, `(bytes,)` uint8, read-only; None on a miss."""
        check_texts(self._owner, context_id, namespace)
        if self._remote is not None:
            fetched = self._fetch(context_id, namespace, state=True)
            if fetched is not None:
                return fetched
        return self._read(self._contexts.get_state, context_id, namespace)

    # The whole

    def stats(self) -> Stats:
        """Counts and bytes at this moment."""
        with self._lock:
            self._follow()
            return stats(self._contexts, self._budget, self._remote)

    def contexts(self) -> Iterator[ContextInfo]:
        """Every context held at this moment."""
        with self._lock:
            self._follow()
            return iter(contexts(self._store))

    def verify(self) -> Verified:
        """Read everything, and see whether all sums come out."""
        with self._lock, self._turn:
            self._follow()
            return verified(self._store, self._budget)

    def evict(self, size: int) -> int:
        """Let go of contexts, least worth first, until `size` bytes of them are gone; how many are.

        They leave every tier.
        """
        with self._lock, self._turn:
            self._follow()
            return self._store.evict_bytes(whole_number("evict", "size", size, 0, unit="bytes"))

    def clear(self, *, namespace: str | None = None) -> int:
        """Let go of all contexts, or of all of a namespace; how many there were."""
        check_texts(self._owner, "", "" if namespace is None else namespace)
        with self._lock, self._turn:
            self._follow()
            spaces = self._store.spaces
            chosen = [s for name, s in spaces.items() if namespace is None or name == namespace]
            known = sum(self._store.clear(space) for space in chosen)
            return known + self._store.rest.clear_unknown(namespace)

    def flush(self) -> None:
        """Have everything on disk, as far as there is room, safe from a loss of power."""
        with self._lock, self._turn:
            self._follow()
            self._store.save()
            for level in self._store.levels:
                level.tier.flush()

    def close(self) -> None:
        """Let go of everything; what is on disk stays there, with write-back everything is."""
        if not self._process.is_here:
            self._closed = True  # all there is belongs to the process of which this is a fork
            return
        with self._lock:
            if self._closed:
                return
            with self._turn:
                self._follow()
                if not self._store.through:
                    self._store.save()
            self._closed = True
            for level in self._store.levels:
                level.tier.close()
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
            self._follow()
            return self._store.contexts

    def __contains__(self, context_id: object) -> bool:
        if not isinstance(context_id, str):
            return False
        return self._read(self._contexts.named, context_id, "") is not None

    def __repr__(self) -> str:
        count = self._store.contexts
        size = f"{self._budget.bytes:,} of {self.max_memory:,} bytes"
        return f"<{type(self).__name__}: {count:,} contexts, {size}>"

    # Within the lock

    @property
    def _lock(self) -> threading.RLock:
        """The lock between threads. In a fork, who held it is not there to let go of it."""
        self._process.check()
        return self._threads

    def _read(self, read: Callable[[Any, str], R], what: Any, namespace: str) -> R:
        """What `read` returns, when no other process changes that under its hands."""
        with self._lock:
            # What is read comes into memory, and with write-back something may go to disk for it.
            if self._store.through:
                try:
                    self._follow()
                    return read(what, namespace)
                except ChangedError:
                    pass
            with self._turn:
                self._follow()
                return read(what, namespace)

    def _follow(self) -> None:
        """Know what is held now, for every process that shares it."""
        if self._closed:
            raise StoreError(f"this {type(self).__name__} was closed; make another one.")
        if self._released:
            self._unpin()
        if self._store.slow is not None:
            sync_from_tier(self._store)
            if time.monotonic() >= self._report_at:
                self._report()
        self._store.rest.settle()
        if self._store.next_expiry <= time.monotonic():
            with self._turn:
                sync_from_tier(self._store)
                self._store.expire()

    def _report(self) -> None:
        """Tell `transom top` what this process does."""
        self._report_at = time.monotonic() + EVERY
        report_activity(self._contexts, self.max_memory)

    def _find(self, context_id: str, namespace: str) -> Entry | None:
        self._follow()
        return self._contexts.named(context_id, namespace)

    # What machines share

    def _publish(
        self, space: str, name: str, ids: NDArray[Any], cost: float, ttl: float | None
    ) -> int:
        """Store a context for all machines, without a state; its version there, 0 for none."""
        if self._remote is None:
            return 0
        self._remote.remove(space, name)
        return self._remote.put(space, name, ids, cost, math.inf if ttl is None else ttl)

    def _fetch(self, name: str, space: str, state: bool = False) -> NDArray[Any] | None:
        """What another machine has added since; what is held here and is not right is let go of.

        None when there is nothing else: then what is held here is right, or nothing is held.
        """
        remote = self._remote
        assert remote is not None
        with self._lock, self._turn:
            entry = self._find(name, space)
            held = entry.state if state and entry is not None else entry
            had = 0 if held is None else held.version
            version = remote.version(space, name, state)
            if version is None or (held is not None and had == version):
                return None
            if 0 < version < had:
                # One of the two was replaced by the other, or both by what the server forgot.
                remote.delete_until(space, name, state, had)
                version = 0
            if state:
                self._store.remove_state(self._store.space(space), name)
            else:
                self._store.remove_context(self._store.space(space), name)
            found = remote.get(space, name, state) if version else None
            if found is None:
                return None
            self._contexts.hits += 1
            left = found.header.left(time.time())
            ttl = None if left == math.inf else left
            if not state:
                ids = given_ids(found.payload, self.vocab_size, self._store.dtype)
                self._contexts.add(
                    self._store.space(space), name, ids, found.header.cost, ttl, found.version
                )
            elif entry is not None:
                self._contexts.add_state(entry, found.payload, found.header.cost, found.version)
            return found.payload

    def _left(self, entry: Entry | None) -> float:
        endless = entry is None or entry.expires == math.inf
        return math.inf if endless else entry.expires - time.monotonic()  # type: ignore[union-attr]

    def _unpin(self) -> None:
        """Let go of what pins no longer keep."""
        if not self._process.is_here:
            return
        with self._lock:
            while self._released and not self._closed:
                self._store.unpin_for_all(self._released.popleft())


def _disk_tier(path: Path, capacity: int | None) -> Tier:
    if os.name != "posix":
        raise StoreError(
            f"{path}: contexts can be kept on disk only where files can be locked as on Linux and "
            "macOS; expected no disk here."
        )
    from transom.memory.tiers.disk import DiskTier

    return DiskTier(path, capacity)

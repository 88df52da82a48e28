"""Many contexts under one budget: the manager."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transom.errors import InputError
from transom.memory.build import build_store
from transom.memory.byte_budget import ByteBudget
from transom.memory.contexts import Contexts
from transom.memory.locked_store import LockedStore
from transom.memory.pins import Pin
from transom.memory.remote import Remote
from transom.memory.replication import Replication
from transom.memory.tiers.base import Payload, as_payload
from transom.memory.tiers.redis import RedisTier
from transom.tokens import ANY_VOCABULARY
from transom.validation import (
    check_names,
    check_texts,
    given_ids,
    given_quotas,
    given_seconds,
    known_keywords,
    whole_number,
)

__all__ = ["ContextMemoryManager"]


@known_keywords
class ContextMemoryManager(LockedStore):
    """Thousands of contexts, as token ids and KV states, in as many bytes as you say.

    Contexts that start alike hold their common blocks once. When memory is full, contexts are
    evicted in the order of the `eviction` policy, to the disk if there is one, otherwise for good.
    A context that others continue is not evicted before them. From the disk, contexts are evicted
    in the order of their last use. A context that was evicted, has expired or was found damaged is
    a miss. A context that is returned is always the one added last under that id.

    Args:
        max_memory: most bytes of memory, with every table and key (2**30 by default).
        disk: folder for what does not fit into memory. It outlives the process, and several
            processes may use it at once. None for none.
        max_disk: most bytes it may take there; None for as many as when it was opened last.
        shared: a `RedisTier` through which machines share contexts under the same ids. Every
            context and state is stored there as well. A newer one from another machine is fetched
            when it is asked for. One that the server has forgotten is a miss even if this machine
            holds it, because it may have been replaced. None for none.
        write: `"through"` writes contexts to disk when they are added; `"back"` writes them when
            they are evicted from memory, and on `flush` and `close`. With `"through"`, states of a
            MiB or more are mapped from disk and not kept in memory.
        eviction: which policy evicts from memory; see `transom.memory.eviction.known`.
        vocab_size: ids are below it; tokens are held in the smallest type that fits.
        block_size: tokens per block; contexts share whole blocks, from the start.
        quotas: most bytes of tokens and states that a namespace may hold, by namespace.
        ttl: seconds after which a context expires, unless it is added with another; None for never.

    Raises:
        InputError: on settings that make no sense.
        StoreError: when the folder cannot be used; also by every method after `close`, and in a
            fork of the process that made the manager: make another one there.

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
        self.ttl = None if ttl is None else given_seconds(owner, "ttl", ttl)
        self.quotas = given_quotas(owner, quotas)
        if shared is not None and not isinstance(shared, RedisTier):
            raise InputError(
                f"{owner}: shared is {shared!r}; expected a RedisTier, as RedisTier(url) makes it."
            )
        budget = ByteBudget(self.max_memory, owner, "max_memory")
        store = build_store(
            owner,
            budget,
            disk=disk,
            max_disk=max_disk,
            write=write,
            eviction=eviction,
            vocab_size=self.vocab_size,
            quotas=self.quotas,
        )
        contexts = Contexts(store, self.block_size)
        remote = None if shared is None else Remote(shared, store.dtype)
        self._replication = (
            None if remote is None else Replication(remote, contexts, self.vocab_size)
        )
        super().__init__(contexts, budget, remote)

    # Contexts

    def add_context(
        self,
        context_id: str,
        ids: ArrayLike,
        *,
        namespace: str = "",
        state: object = None,
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
            Whether it is held now. It is not when there is no room, or when it is larger than every
            tier; `refusal` then says why. What was held under the id before is removed either way.

        Raises:
            InputError: on ids, a state or settings that cannot be used; nothing is changed then.
        """
        check_names(self._owner, context_id, namespace)
        array = given_ids(ids, self.vocab_size, self._store.dtype)
        payload = None if state is None else as_payload(state)
        cost = given_seconds(self._owner, "cost", cost, least=0.0) if cost != 0.0 else 0.0
        ttl = self.ttl if ttl is None else given_seconds(self._owner, "ttl", ttl)
        with self._lock, self._exclusive:
            self._catch_up()
            space = self._store.space(namespace)
            self._store.lifecycle.remove_context(space, context_id)
            version = 0
            if self._replication is not None:
                version = self._replication.put_context(namespace, context_id, array, cost, ttl)
            held = self._contexts.add(space, context_id, array, cost, ttl, version)
            return (held or version > 0) and (
                payload is None
                or self.add_state(context_id, payload, namespace=namespace, cost=cost)
            )

    def get_context(self, context_id: str, *, namespace: str = "") -> NDArray[np.generic] | None:
        """The ids, `(tokens,)`, read-only, in the type that they are held in; None on a miss.

        Ids that are held in one piece are not copied. Their bytes stay charged while the array is
        alive, so keep a copy rather than the array.
        """
        check_texts(self._owner, context_id, namespace)
        if self._replication is not None:
            fetched = self._fetch_context(context_id, namespace)
            if fetched is not None:
                return fetched
        return self._read(lambda: self._contexts.get_context(context_id, namespace))

    def remove_context(self, context_id: str, *, namespace: str = "") -> bool:
        """Remove a context and its state; whether there was such a context."""
        check_texts(self._owner, context_id, namespace)
        with self._lock, self._exclusive:
            self._catch_up()
            held = self._store.lifecycle.remove_context(self._store.space(namespace), context_id)
            if self._remote is not None:
                self._remote.remove(namespace, context_id)
            return held

    def extend(
        self,
        context_id: str,
        more_ids: ArrayLike,
        *,
        namespace: str = "",
        cost: float = 0.0,
        ttl: float | None = None,
    ) -> bool:
        """Add ids at the end of a context, like `add_context` of the old and new ids together.

        Its state, which was that of the shorter context, is removed.

        Returns:
            Whether the longer context is held now; `refusal` says why not. It is not when the
            shorter one was not held either.
        """
        check_texts(self._owner, context_id, namespace)
        array = given_ids(more_ids, self.vocab_size, self._store.dtype)
        with self._lock, self._exclusive:
            held = self.get_context(context_id, namespace=namespace)
            if held is None:
                self._store.lifecycle.remove_context(self._store.space(namespace), context_id)
                return self._contexts.refuse(
                    f"{context_id!r} is not held, so it cannot be extended"
                )
            joined = np.concatenate([held, array])
            del held  # so that its bytes can be used for the longer one
            return self.add_context(context_id, joined, namespace=namespace, cost=cost, ttl=ttl)

    def longest_prefix(self, ids: ArrayLike, *, namespace: str = "") -> tuple[str, int] | None:
        """The context that has most of `ids` from the start: its id, and how many tokens of them.

        The tokens are a whole number of blocks, which need not be prefilled again. They count as
        used. None when not one block is held.
        """
        check_texts(self._owner, "", namespace)
        array = given_ids(ids, self.vocab_size, self._store.dtype)
        return self._read(lambda: self._contexts.longest_prefix(array, namespace))

    def pin(self, context_id: str, *, namespace: str = "") -> Pin:
        """Keep a context from being evicted: `with manager.pin("alice/42") as ids: ...`.

        Raises:
            InputError: when the context is not held.
        """
        check_texts(self._owner, context_id, namespace)
        if self._replication is not None:
            self._fetch_context(context_id, namespace)
        ids, entry = self._read(lambda: self._contexts.pinned(context_id, namespace))
        return Pin(ids, partial(self._released.append, entry), self._unpin_released)

    # States

    def add_state(
        self, context_id: str, state: object, *, namespace: str = "", cost: float = 0.0
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
        with self._lock, self._exclusive:
            self._catch_up()
            self._store.lifecycle.remove_state(self._store.space(namespace), context_id)
            entry = self._contexts.named(context_id, namespace)
            version = 0
            if self._replication is not None:
                version = self._replication.put_state(namespace, context_id, payload, cost, entry)
            if entry is None:
                return version > 0 or self._contexts.refuse(
                    f"{context_id!r} is not held, so it can have no state"
                )
            return self._contexts.add_state(entry, payload, cost, version) or version > 0

    def get_state(self, context_id: str, *, namespace: str = "") -> Payload | None:
        """The state of a context, `(bytes,)` uint8, read-only; None on a miss."""
        check_texts(self._owner, context_id, namespace)
        if self._replication is not None:
            with self._lock, self._exclusive:
                self._catch_up()
                fetched = self._replication.fetch_state(namespace, context_id)
            if fetched is not None:
                return fetched
        return self._read(lambda: self._contexts.get_state(context_id, namespace))

    def __contains__(self, context_id: object) -> bool:
        if not isinstance(context_id, str):
            return False
        return self._read(lambda: self._contexts.named(context_id, "")) is not None

    def _fetch_context(self, context_id: str, namespace: str) -> NDArray[np.generic] | None:
        assert self._replication is not None
        with self._lock, self._exclusive:
            self._catch_up()
            return self._replication.fetch_context(namespace, context_id)

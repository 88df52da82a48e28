"""Contexts and states as chains of entries."""

from __future__ import annotations

import math
import time
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from transom.errors import InputError
from transom.memory.entry import Entry, Namespace
from transom.memory.entry_header import LISTED
from transom.memory.entry_store import EntryStore
from transom.memory.tiers.base import Payload
from transom.memory.tree import Match, holder, key_hash, match

__all__ = ["Contexts"]


class Contexts:
    """Contexts by id, each the end of a chain of entries.

    Attributes:
        store: the entries.
        hits: how many contexts and states that were asked for were held.
        misses: how many were not.
        refused: how many contexts and states did not fit.
        refusal: why the last one did not.

    Notes:
        Has no lock of its own; callers hold the manager's.
    """

    def __init__(self, store: EntryStore, block_size: int) -> None:
        self.store = store
        self._block_size = block_size
        self.hits = self.misses = self.refused = 0
        self.refusal: str | None = None

    def get_context(self, context_id: str, namespace: str) -> NDArray[np.generic] | None:
        """The ids of a context; None on a miss, which is counted."""
        store = self.store
        entry = self.named(context_id, namespace)
        if entry is None:
            self.misses += 1
            return None
        fast, slow = store.tables.fast, store.tables.slow
        found: NDArray[np.generic] | None
        if entry.parent is None and slow is None and fast.held.get(entry.key) is entry:
            # The same as `gather` for most contexts, in half the time.
            fast.hits += 1
            fast.eviction.touch(entry.key)
            found = fast.payloads.typed(entry.key, store.dtype)
        else:
            found = self.gather(entry)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def longest_prefix(self, ids: NDArray[np.generic], namespace: str) -> tuple[str, int] | None:
        """The context that has most of `ids` from the start, and how many; None on a miss."""
        space = self.store.tables.spaces.get(namespace)
        found = None if space is None else self._match(space, ids)
        held = None
        if found is not None and found.parent is not None:
            held = holder(found.parent, found.at, self.store.kids)
            self.store.touch(found.parent)
        if held is None:
            self.misses += 1
        else:
            self.hits += 1
        return held

    def pinned(self, context_id: str, namespace: str) -> tuple[NDArray[np.generic], Entry]:
        """Pin a context; its ids and its entry.

        Raises:
            InputError: when it is not held.
        """
        entry = self.named(context_id, namespace)
        found = None if entry is None else self.gather(entry)
        if entry is None or found is None:
            raise InputError(f"cannot pin {context_id!r}: it is not held; add it first.")
        self.store.lifecycle.pin_for_all(entry)
        return found, entry

    def get_state(self, context_id: str, namespace: str) -> Payload | None:
        """The state of a context; None on a miss, which is counted."""
        entry = self.named(context_id, namespace)
        state = None if entry is None else entry.state
        found = None if state is None else self.store.placement.read(state)
        if state is None or found is None:
            self.misses += 1
            return None
        self.hits += 1
        self.store.touch(state)
        return found

    def named(self, context_id: str, namespace: str) -> Entry | None:
        """The entry that a context ends with; None when it is not held."""
        space = self.store.tables.spaces.get(namespace)
        return None if space is None else self.store.named(space, context_id)

    def _match(self, space: Namespace, ids: NDArray[np.generic]) -> Match:
        store = self.store
        return match(space, ids, self._block_size, store.token_pieces, store.listed)

    def gather(self, entry: Entry) -> NDArray[np.generic] | None:
        """All ids of a context, in one array; None when some were found damaged."""
        store = self.store
        last = store.tokens(entry)
        if last is None:
            return None
        store.touch(entry)
        if entry.start == 0:
            return last
        ids = np.empty(entry.start + len(last), dtype=store.dtype)
        ids[entry.start :] = last
        while entry.parent is not None:
            at, entry = entry.at, entry.parent
            part = store.tokens(entry)
            if part is None:
                return None
            ids[entry.start : entry.start + at] = part[:at]
        ids.setflags(write=False)
        return ids

    def add(
        self,
        space: Namespace,
        name: str,
        ids: NDArray[np.generic],
        cost: float,
        ttl: float | None,
        version: int,
    ) -> bool:
        """Hold a context that is not held; False without room, and `refusal` says why."""
        store = self.store
        found = self._match(space, ids)
        key = found.key
        if key is None:
            key = key_hash(space.name, name)
        free = store.free_key(key, space.name, name)
        expires = math.inf if ttl is None else time.monotonic() + ttl
        own = ids[found.length :]
        entry = Entry(free, space, name, own.nbytes, found.parent, found.at, cost, expires)
        entry.version = version
        if found.key == free and free not in space.blocks:
            entry.flags |= LISTED
        held = store.placement.put(entry, own)
        return held or self._refuse_entry(entry, f"context {name!r}")

    def add_state(self, entry: Entry, payload: Payload, cost: float, version: int) -> bool:
        """Hold a state of a context that has none."""
        assert entry.name is not None
        space = entry.space
        key = self.store.free_key(key_hash(space.name, entry.name, "state"), entry.name)
        state = Entry(
            key, space, entry.name, payload.nbytes, cost=cost, expires=entry.expires, of=entry
        )
        state.version = version
        held = self.store.placement.put(state, payload)
        return held or self._refuse_entry(state, f"the state of {entry.name!r}")

    def _refuse_entry(self, entry: Entry, what: str) -> bool:
        sizes = [(t.name, t.payloads.capacity) for t in self.store.tables.tiers]
        if entry.space.quota is not None and entry.size > entry.space.quota:
            sizes = [(f"namespace {entry.space.name!r}", entry.space.quota)]
        limits = ", ".join(f"{name} {capacity:,}" for name, capacity in sizes)
        larger = all(entry.size > capacity for _, capacity in sizes)
        why = "larger than what it must fit into" if larger else "and what is held may not leave"
        return self.refuse(f"{what} has {entry.size:,} bytes, {why} ({limits} bytes)")

    def refuse(self, why: str) -> Literal[False]:
        """Note why nothing was added."""
        self.refusal = why
        self.refused += 1
        return False

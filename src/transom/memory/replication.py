"""Contexts and states that machines share: what is stored there, and what is fetched."""

from __future__ import annotations

import math
import time

import numpy as np
from numpy.typing import NDArray

from transom.memory.contexts import Contexts
from transom.memory.entry import Entry
from transom.memory.remote import Remote
from transom.memory.tiers.base import Payload
from transom.validation import given_ids

__all__ = ["Replication"]


class Replication:
    """Keeps what is held here and what is on a server that machines share the same.

    Attributes:
        remote: what the server holds.

    Notes:
        Has no lock of its own; callers hold the manager's.
    """

    def __init__(self, remote: Remote, contexts: Contexts, vocab_size: int) -> None:
        self.remote = remote
        self._contexts = contexts
        self._store = contexts.store
        self._vocab_size = vocab_size

    def put_context(
        self, space: str, name: str, ids: NDArray[np.generic], cost: float, ttl: float | None
    ) -> int:
        """Store a context without a state for all machines; its version, 0 when that failed."""
        self.remote.remove(space, name)
        return self.remote.put(space, name, ids, cost, math.inf if ttl is None else ttl)

    def put_state(
        self, space: str, name: str, payload: Payload, cost: float, entry: Entry | None
    ) -> int:
        """Store a state for all machines; its version, 0 when that failed.

        Args:
            space: the namespace of its context.
            name: the id of its context.
            payload: the state.
            cost: seconds that it takes to compute it again.
            entry: the context as it is held here, with which the state expires; None without one.
        """
        endless = entry is None or entry.expires == math.inf
        left = math.inf if endless or entry is None else entry.expires - time.monotonic()
        return self.remote.put(space, name, payload, cost, left, state=True)

    def fetch_context(self, space: str, name: str) -> NDArray[np.generic] | None:
        """The ids that another machine has stored since; this machine then holds them too.

        A context that is held here in another version than on the server is removed.

        Returns:
            The ids, `(tokens,)`; None when what is held here is valid, or the server has nothing.
        """
        entry = self._contexts.named(name, space)
        version = self._newer(space, name, entry, state=False)
        if version is None:
            return None
        self._store.lifecycle.remove_context(self._store.space(space), name)
        found = self.remote.get(space, name) if version else None
        if found is None:
            return None
        self._contexts.hits += 1
        left = found.header.left(time.time())
        ids = given_ids(found.payload, self._vocab_size, self._store.dtype)
        ttl = None if left == math.inf else left
        cost = found.header.cost
        self._contexts.add(self._store.space(space), name, ids, cost, ttl, found.version)
        return found.payload

    def fetch_state(self, space: str, name: str) -> Payload | None:
        """Like `fetch_context`, for the state of a context; `(bytes,)` uint8."""
        entry = self._contexts.named(name, space)
        state = None if entry is None else entry.state
        version = self._newer(space, name, state, state=True)
        if version is None:
            return None
        self._store.lifecycle.remove_state(self._store.space(space), name)
        found = self.remote.get(space, name, state=True) if version else None
        if found is None:
            return None
        self._contexts.hits += 1
        payload = found.payload.view(np.uint8)
        if entry is not None:
            self._contexts.add_state(entry, payload, found.header.cost, found.version)
        return payload

    def _newer(self, space: str, name: str, held: Entry | None, *, state: bool) -> int | None:
        """The version to fetch; 0 when what is held here counts no longer, None when it is right.

        The server may also not say, and then what is held here counts.
        """
        had = 0 if held is None else held.version
        version = self.remote.version(space, name, state)
        if version is None or (held is not None and had == version):
            return None
        if 0 < version < had:
            # One version replaced the other, or a version that the server forgot replaced both.
            self.remote.remove_until(space, name, state, had)
            return 0
        return version

"""Contexts on a server that machines share: each whole, under the hash of its id."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from transom.memory.entry_header import EntryHeader
from transom.memory.tiers.redis import RedisTier
from transom.memory.tree import key_hash

__all__ = ["Fetched", "Remote"]

STATE = "\0state"
MOST_UNTOLD = 10_000  # keys; beyond that, everything of before is to be deleted


class Fetched(NamedTuple):
    """A payload from the server.

    Attributes:
        header: what is known about it.
        payload: tokens, `(tokens,)`, or a state, `(bytes,)` uint8.
        version: its version there.
    """

    header: EntryHeader
    payload: NDArray[np.generic]
    version: int


class Remote:
    """Contexts and states on a server: for each id, what any machine added last.

    What this machine holds is valid if the server has the same version. If the server has no
    version, it is not valid: another machine may have replaced or removed it, and the server may
    have forgotten that. Versions grow. There are two reasons why the server may have an older
    version than this machine. It may have lost the latest one, as in a failover. Or it forgot the
    entry, and the version here came from a machine whose clock was ahead. Nobody can tell which,
    so neither version is valid.

    Deletions that could not be sent to the server are kept. Until such a deletion is sent, or
    something later is stored under its id, the server's answers about that id do not count.

    Attributes:
        tier: the server.
        hits: how many payloads were fetched.
    """

    def __init__(self, tier: RedisTier, dtype: np.dtype[np.generic]) -> None:
        self.tier = tier
        self.hits = 0
        self._dtype = dtype
        self._untold: dict[int, int] = {}  # keys to delete, each with the highest version to delete
        self._untold_all = 0  # the version up to which every key is to be deleted

    def put(
        self,
        space: str,
        name: str,
        payload: NDArray[np.generic],
        cost: float,
        ttl: float,
        state: bool = False,
    ) -> int:
        """Store a context or its state for all machines.

        Returns:
            Its version; 0 when that failed. Then what the server had is deleted, so that nobody
            takes it for the newest.
        """
        itemsize = 1 if state else self._dtype.itemsize
        header = EntryHeader(
            space, name, False, state, False, itemsize, 0, 0, cost, time.time(), ttl, 0
        )
        key = self._key(space, name, state)
        version = self.tier.put(key, payload, header.pack())
        if version:
            self._untold.pop(key, None)
        else:
            self._delete(key)
        return version

    def version(self, space: str, name: str, state: bool) -> int | None:
        """The version on the server; 0 without one, None when its answer does not count."""
        key = self._key(space, name, state)
        self._tell_all()
        return self.tier.version(key) if self._told(key) else None

    def remove_until(self, space: str, name: str, state: bool, version: int) -> None:
        """Remove a context or a state from the server, unless it is later than `version`."""
        self._delete(self._key(space, name, state), version)

    def get(self, space: str, name: str, state: bool = False) -> Fetched | None:
        """What is stored under the id; None when that is nothing, expired, or another context."""
        found = self.tier.get_version(self._key(space, name, state))
        if found is None:
            return None
        version, packed, payload = found
        header = EntryHeader.unpack(packed)
        itemsize = 1 if state else self._dtype.itemsize
        known = header is not None and (header.space, header.name, header.state) == (
            space,
            name,
            state,
        )
        if (
            header is None
            or not known
            or header.itemsize != itemsize
            or header.left(time.time()) <= 0
        ):
            return None
        self.hits += 1
        tokens: NDArray[np.generic] = payload if state else payload.view(self._dtype)
        return Fetched(header, tokens, version)

    def remove(self, space: str, name: str) -> None:
        """Remove a context and its state for all machines."""
        for state in (False, True):
            self._delete(self._key(space, name, state))

    def _delete(self, key: int, until: int | None = None) -> None:
        """Delete `key`, unless its version is above `until`, now or when the server can be told."""
        if self.tier.remove(key, until) is None:
            self._untold[key] = self.tier.new_version() if until is None else until
            if len(self._untold) > MOST_UNTOLD:
                self._untold.clear()
                self._untold_all = self.tier.new_version()
        else:
            self._untold.pop(key, None)

    def _told(self, key: int) -> bool:
        """Send the deletion of `key` if it is owed; whether answers about `key` count now."""
        until = self._untold.get(key, self._untold_all)
        if not until:
            return True
        if self.tier.remove(key, until) is None:
            return False
        self._untold.pop(key, None)
        return True

    def _tell_all(self) -> None:
        """Send all owed deletions to the server, until it does not answer."""
        for key in list(self._untold):
            if not self._told(key):
                break

    def _key(self, space: str, name: str, state: bool) -> int:
        return key_hash(space, name, STATE) if state else key_hash(space, name)

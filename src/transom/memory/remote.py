"""Contexts on a tier that machines share: whole, under the hash of their id."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transom.memory.entry_header import EntryHeader
from transom.memory.tiers.redis import RedisTier
from transom.memory.tree import key_hash

__all__ = ["Fetched", "Remote"]

STATE = "\0state"
MOST_OWED = 10_000  # ids; beyond that, all that the server had by then is to be deleted


class Fetched(NamedTuple):
    """A payload that another machine may have stored, with what is known about it."""

    header: EntryHeader
    payload: NDArray[Any]
    version: int


class Remote:
    """What was added last under an id, by whichever machine.

    What is held here under an id is right if it has the version that the server has. If the server
    has none, what had one is not believed any more: another machine may have replaced or removed
    it, and the server forgotten that. Versions grow; where the server has an older one than is held
    here, it lacks the latest, as after a failover, or forgot what was held here and the clock that
    made this was ahead. Which it was, nobody can tell: neither is believed.

    What could not be told the server is owed to it: until what it has of that id is deleted there,
    or somebody stored something later, its word on that id counts for nothing here.

    Attributes:
        tier: where it is.
        hits: how often something was fetched.
    """

    def __init__(self, tier: RedisTier, dtype: np.dtype[Any]) -> None:
        self.tier = tier
        self.hits = 0
        self._dtype = dtype
        self._owed: dict[int, int] = {}  # the versions up to which a key is to be deleted
        self._all_owed = 0  # and up to which all are

    def put(
        self,
        space: str,
        name: str,
        payload: NDArray[Any],
        cost: float,
        ttl: float,
        state: bool = False,
    ) -> int:
        """Store a context or its state for all machines; its version, 0 when that failed.

        Then what the server had is deleted, so that nobody takes it for the newest.
        """
        itemsize = 1 if state else self._dtype.itemsize
        header = EntryHeader(
            space, name, False, state, False, itemsize, 0, 0, cost, time.time(), ttl, 0
        )
        key = self._key(space, name, state)
        version = self.tier.put(key, payload, header.pack())
        if version:
            self._owed.pop(key, None)
        else:
            self._delete(key)
        return version

    def version(self, space: str, name: str, state: bool) -> int | None:
        """The version on the server; 0 when there is none, None when its word does not count."""
        key = self._key(space, name, state)
        self._pay()
        return self.tier.version(key) if self._paid(key) else None

    def remove_until(self, space: str, name: str, state: bool, version: int) -> None:
        """Delete what the server has of a context or state, unless it is later than `version`."""
        self._delete(self._key(space, name, state), version)

    def get(self, space: str, name: str, state: bool = False) -> Fetched | None:
        """What is stored under the id; None when that is nothing, expired or another's."""
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
        tokens: NDArray[Any] = payload if state else payload.view(self._dtype)
        return Fetched(header, tokens, version)

    def remove(self, space: str, name: str) -> None:
        """Delete a context and its state for all machines."""
        for state in (False, True):
            self._delete(self._key(space, name, state))

    def _delete(self, key: int, until: int | None = None) -> None:
        """Delete `key`, unless it has a version above `until`: now, or when that can be told."""
        if self.tier.remove(key, until) is None:
            self._owed[key] = self.tier.new_version() if until is None else until
            if len(self._owed) > MOST_OWED:
                self._owed.clear()
                self._all_owed = self.tier.new_version()
        else:
            self._owed.pop(key, None)

    def _paid(self, key: int) -> bool:
        """Whether the server's word on `key` counts, and may do so after something is deleted."""
        until = self._owed.get(key, self._all_owed)
        if not until:
            return True
        if self.tier.remove(key, until) is None:
            return False
        self._owed.pop(key, None)
        return True

    def _pay(self) -> None:
        """Tell the server all that it should know, as far as it can be told now."""
        for key in list(self._owed):
            if not self._paid(key):
                break

    def _key(self, space: str, name: str, state: bool) -> int:
        return key_hash(space, name, STATE) if state else key_hash(space, name)

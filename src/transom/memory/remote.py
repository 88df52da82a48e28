"""Contexts on a tier that machines share: whole, under the hash of their id."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transom.memory.label import Label
from transom.memory.tiers.redis import RedisTier
from transom.memory.tree import number_of

__all__ = ["Fetched", "Remote"]

STATE = "\0state"
MOST_OWED = 10_000  # ids; beyond that, all that is on the server is to be deleted


class Fetched(NamedTuple):
    """A payload that another machine may have stored, with what is known about it."""

    label: Label
    payload: NDArray[Any]
    version: int


class Remote:
    """What was added last under an id, by whichever machine.

    What could not be told the server because it did not answer is owed to it: until it is deleted
    there, the server's word on that id counts for nothing here.

    Attributes:
        tier: where it is.
        hits: how often something was fetched.
    """

    def __init__(self, tier: RedisTier, dtype: np.dtype[Any]) -> None:
        self.tier = tier
        self.hits = 0
        self._dtype = dtype
        self._owed: set[int] = set()
        self._owe_all = False

    def put(
        self,
        space: str,
        name: str,
        payload: NDArray[Any],
        cost: float,
        ttl: float,
        state: bool = False,
    ) -> int:
        """Store a context or its state for all machines; its version, 0 when that failed."""
        itemsize = 1 if state else self._dtype.itemsize
        label = Label(space, name, False, state, False, itemsize, 0, 0, cost, time.time(), ttl, 0)
        key = self._key(space, name, state)
        version = self.tier.put(key, payload, label.pack()) if self._pay() else 0
        if not version:
            self._owe(key)
        return version

    def version(self, space: str, name: str, state: bool = False) -> int | None:
        """As `RedisTier.version` says."""
        return self.tier.version(self._key(space, name, state)) if self._pay() else None

    def get(self, space: str, name: str, state: bool = False) -> Fetched | None:
        """What is stored under the id; None when that is nothing, expired or another's."""
        key = self._key(space, name, state)
        version = self.tier.version(key)
        try:
            label = Label.unpack(self.tier.label(key))
            payload = self.tier[key]
        except KeyError:
            return None
        itemsize = 1 if state else self._dtype.itemsize
        known = label is not None and (label.space, label.name, label.state) == (space, name, state)
        if label is None or not known or label.itemsize != itemsize or label.left(time.time()) <= 0:
            return None
        if not version or self.tier.version(key) != version:
            return None  # It was replaced meanwhile; the next to ask will get it.
        self.hits += 1
        tokens: NDArray[Any] = payload if state else payload.view(self._dtype)
        return Fetched(label, tokens, version)

    def remove(self, space: str, name: str) -> None:
        """Delete a context and its state for all machines."""
        for state in (False, True):
            key = self._key(space, name, state)
            if not self._pay() or self.tier.discard(key) is None:
                self._owe(key)

    def _owe(self, key: int) -> None:
        self._owed.add(key)
        if len(self._owed) > MOST_OWED:
            self._owed.clear()
            self._owe_all = True

    def _pay(self) -> bool:
        """Whether the server knows all that it should."""
        if self._owe_all:
            before = self.tier.failures + self.tier.breaker.skipped
            for key in list(self.tier):
                self.tier.discard(key)
            self._owe_all = self.tier.failures + self.tier.breaker.skipped > before
        while self._owed and not self._owe_all:
            key = next(iter(self._owed))
            if self.tier.discard(key) is None:
                break
            self._owed.remove(key)
        return not self._owed and not self._owe_all

    def _key(self, space: str, name: str, state: bool) -> int:
        return number_of(space, name, STATE) if state else number_of(space, name)

"""Placement: which tiers an entry is in, and what is evicted to make room for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable

import numpy as np
from numpy.typing import NDArray

from transom.memory.entry import Entry, Namespace
from transom.memory.entry_tables import EntryTables
from transom.memory.forgetting import Forgetting
from transom.memory.lifecycle import Lifecycle
from transom.memory.overhead import Overhead
from transom.memory.rate_limited_log import RateLimitedLog
from transom.memory.rest import ChangedError, Rest
from transom.memory.slow_eviction import SlowEviction
from transom.memory.tier_with_eviction import TierWithEviction
from transom.memory.tiers.base import Payload, Tier

__all__ = ["Placement"]

logger = logging.getLogger("transom.memory")


class Placement:
    """Puts entries into tiers, moves them between tiers, and evicts others for room.

    A tier that holds an entry also holds what the entry continues. An entry evicted from memory
    goes to the slow tier, unless it is there already.

    Attributes:
        through: whether an entry is put into both tiers at once.
    """

    def __init__(
        self,
        tables: EntryTables,
        overhead: Overhead,
        forgetting: Forgetting,
        lifecycle: Lifecycle,
        slow_eviction: SlowEviction,
        rest: Rest,
        dtype: np.dtype[np.generic],
        through: bool,
    ) -> None:
        self._tables = tables
        self._overhead = overhead
        self._forgetting = forgetting
        self._lifecycle = lifecycle
        self._slow_eviction = slow_eviction
        self._rest = rest
        self._dtype = dtype
        self.through = through
        self._pressure = RateLimitedLog(
            logger, logging.INFO, "%d entries were evicted from memory, which is full (%s bytes)"
        )

    # Reading

    def read(self, entry: Entry) -> Payload | None:
        """The payload of `entry`, from the fastest tier that has it; it is in memory afterwards.

        Returns:
            The payload; None when it is damaged. Then the entry and its kids are forgotten.

        Raises:
            ChangedError: when another process may have deleted it meanwhile.
        """
        fast = self._tables.fast
        if fast.held.get(entry.key) is entry:
            fast.hits += 1
            return fast.payloads[entry.key]
        slow = self._tables.below
        try:
            payload: Payload = slow.payloads[entry.key]
        except KeyError:
            if not slow.payloads.steady:
                raise ChangedError from None
            self._forgetting.forget_copy(slow, entry)
            return None
        slow.hits += 1
        if not slow.payloads.maps(entry.size):
            self._lift(entry, payload)
        return payload

    # Putting

    def put(self, entry: Entry, payload: NDArray[np.generic]) -> bool:
        """Hold a new entry with its payload; False when no tier has room."""
        above = entry.above
        if above is not None:
            self._lifecycle.pin(above)
        try:
            return self._within_quota(entry) and self._enter(entry) and self._put(entry, payload)
        finally:
            if above is not None:
                self._lifecycle.unpin(above)

    def _enter(self, entry: Entry) -> bool:
        """Charge the overhead of a new entry; if need be, put others to rest before."""
        if self._overhead.enter(entry):
            return True
        self._rest.put_to_rest()
        return self._overhead.enter(entry)

    def _put(self, entry: Entry, payload: NDArray[np.generic]) -> bool:
        slow = self._tables.slow
        # A payload that is read in place from the slow tier gains nothing from a copy in memory.
        in_place = slow is not None and self.through and slow.payloads.maps(entry.size)
        held = in_place and self._put_slow(entry, payload)
        if not held:
            held = self._put_fast(entry, payload)
            if slow is not None and not in_place and (self.through or not held):
                held = self._put_slow(entry, payload) or held
        if held:
            entry.link()
            entry.space.bytes += entry.size
            self._lifecycle.add_names(entry)
            self._tables.note_idle(entry)
        else:
            self._overhead.forget(entry)
        return held

    def _put_fast(self, entry: Entry, payload: NDArray[np.generic]) -> bool:
        fast = self._tables.fast
        if not fast.payloads.fits(entry.size) or not self._lifted(entry.above):
            return False
        if not fast.payloads.store(entry.key, payload) and not self._with_room(
            fast, entry, lambda: fast.payloads.store(entry.key, payload), self.evict
        ):
            return False
        fast.add(entry)
        return True

    def _put_slow(self, entry: Entry, payload: NDArray[np.generic]) -> bool:
        slow, above = self._tables.below, entry.above
        if not slow.payloads.fits(entry.size) or (above is not None and not self._save(above)):
            return False
        header = entry.header(self._dtype.itemsize).pack()

        def attempt() -> bool:
            return self._overhead.may_be_below() and slow.payloads.store(entry.key, payload, header)

        stored = attempt()
        while not stored and (
            self._slow_eviction.evict_unknown() or self._slow_eviction.evict_resting()
        ):
            stored = attempt()
        stored = stored or self._with_room(slow, entry, attempt, self._slow_eviction.evict_entry)
        if stored:
            slow.add(entry)
        return stored

    def _with_room(
        self,
        tier: TierWithEviction[Tier],
        entry: Entry,
        attempt: Callable[[], bool],
        evict: Callable[[Entry], None],
    ) -> bool:
        """Evict until `attempt` succeeds, but nothing that `entry` continues."""
        above = entry.above
        if above is None:
            return tier.with_room(entry, attempt, evict)
        self._lifecycle.pin(above)
        try:
            return tier.with_room(entry, attempt, evict)
        finally:
            self._lifecycle.unpin(above)

    # Moving between tiers

    def save(self) -> None:
        """Put what is only in memory on the slow tier too, as far as it has room."""
        if self._tables.slow is not None:
            for entry in list(self._tables.fast.held.values()):
                self._save(entry)

    def _save(self, entry: Entry) -> bool:
        """Put `entry`, and what it continues, on the slow tier too; whether it is there."""
        tables = self._tables
        return entry in tables.below or self._put_slow(entry, tables.fast.payloads[entry.key])

    def _lifted(self, entry: Entry | None) -> bool:
        """Put `entry`, and what it continues, into memory too; whether it is there."""
        fast = self._tables.fast
        if entry is None or entry in fast:
            return True
        return self.read(entry) is not None and entry in fast

    def _lift(self, entry: Entry, payload: Payload) -> None:
        """Hold `payload`, read from the slow tier, in memory too, if there is room."""
        self._lifecycle.pin(entry)
        try:
            self._put_fast(entry, payload)
        finally:
            self._lifecycle.unpin(entry)

    # Evicting

    def evict(self, entry: Entry) -> None:
        """Evict `entry` from memory: to the slow tier if it has room, otherwise for good.

        With write-through, an entry that is not on the slow tier was evicted from there already.
        """
        tables = self._tables
        if tables.slow is not None and not self.through and entry not in tables.slow:
            self._save(entry)
        tables.fast.forget(entry, evicted=True)
        self._pressure.count(f"{tables.fast.payloads.capacity:,}")
        if tables.slow is None or entry not in tables.slow:
            self._forgetting.forget(entry)
        else:
            tables.note_idle(entry)

    def evict_one(self) -> bool:
        """Evict from memory what is worth the least there; False when nothing may leave."""
        fast = self._tables.fast
        key = fast.eviction.victim(None, fast.may_go)
        if key is None:
            return False
        self.evict(fast.held[key])
        return True

    def evict_bytes(self, size: int) -> int:
        """Evict entries from every tier until `size` bytes are gone or none may leave.

        Returns:
            Bytes of the entries evicted.
        """
        gone, below = 0, self._slow_eviction
        while gone < size and (freed := below.evict_unknown() or below.evict_resting()):
            gone += freed
        for tier in reversed(self._tables.tiers):
            while gone < size:
                entry = self._victim(tier)
                if entry is None:
                    break
                gone += entry.size
                self._evict_everywhere(entry)
        return gone

    def _within_quota(self, entry: Entry) -> bool:
        """Evict from the namespace until a new entry is within its quota; False when it is not."""
        space = entry.space
        if space.quota is None:
            return True
        if entry.size > space.quota:
            return False
        while space.bytes + entry.size > space.quota:
            if self._slow_eviction.evict_resting(space):
                continue
            victims = (self._victim(tier, space) for tier in reversed(self._tables.tiers))
            victim = next((entry for entry in victims if entry is not None), None)
            if victim is None:
                return False
            self._evict_everywhere(victim)
        return True

    def _victim(self, tier: TierWithEviction[Tier], space: Namespace | None = None) -> Entry | None:
        """The entry worth the least in a tier that may leave every tier; None without one.

        Args:
            tier: where to look.
            space: only an entry of this namespace; None for any.
        """

        def may_go(key: Hashable) -> bool:
            entry = tier.held[key]
            return (
                (space is None or entry.space is space)
                and entry.is_leaf
                and all(other.may_go(key) for other in self._tables.tiers if entry in other)
            )

        key = tier.eviction.victim(None, may_go)
        return None if key is None else tier.held[key]

    def _evict_everywhere(self, entry: Entry) -> None:
        for tier in self._tables.tiers:
            if entry in tier:
                tier.forget(entry, evicted=True)
        self._forgetting.forget(entry)

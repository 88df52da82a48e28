"""Entries on their shelves: put, read, moved down a tier when one is full, forgotten."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Iterator, Mapping
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transom.errors import StoreError
from transom.memory.byte_budget import ByteBudget
from transom.memory.entry import Entry, Namespace
from transom.memory.entry_header import LISTED, NAMELESS, STATE, EntryHeader
from transom.memory.overhead import Overhead
from transom.memory.rest import ChangedError, Rest
from transom.memory.resting import Resting
from transom.memory.tier_with_eviction import TierWithEviction
from transom.memory.tiers.base import Payload, Tier
from transom.memory.tiers.ram import RamTier
from transom.memory.tree import key_hash

__all__ = ["EntryStore"]

MANY_SPACES = 64  # namespaces among which it is worth to look for empty ones


class EntryStore:
    """Entries in memory and, with a second shelf, below it.

    In every tier that an entry is in is also what it continues. An entry that leaves memory goes
    down to the second shelf, unless it is there already, and rests there: only a row of numbers is
    kept of it. Whoever looks for it wakes it, and what it continues, for as long as it is used.
    One that leaves its last tier is forgotten, and so is what only it had continued.

    Attributes:
        fast: the shelf in memory.
        slow: the one below; None without.
        shelves: both, the fastest first.
        through: whether entries are put on both at once.
        spaces: namespaces by name.
        expiring: when entries expire, as a heap; also of some that are gone.
        expired: how many have.
        resting: entries that are on the second shelf only, and not in use.
        rest: how they go to rest, and wake.
        useless: keys on the second shelf that have expired, or continue what is gone.
        doubtful: keys of entries that nothing seems to need.

    Notes:
        Has no lock of its own; whoever uses it holds the manager's.
    """

    def __init__(
        self,
        budget: ByteBudget,
        fast: TierWithEviction[RamTier],
        slow: TierWithEviction[Tier] | None,
        dtype: np.dtype[Any],
        through: bool,
        quotas: Mapping[str, int],
        salt: int,
    ) -> None:
        self.fast = fast
        self.slow = slow
        self.levels: list[TierWithEviction[Any]] = [fast] if slow is None else [fast, slow]
        self.dtype = dtype
        self.through = through
        self.spaces: dict[str, Namespace] = {}
        self.expiring: list[tuple[float, int, Entry]] = []
        self.expired = 0
        self.resting = Resting(fast.tier if slow is None else slow.tier)
        self.rest = Rest(self, self.resting)
        self.useless: list[int] = []
        self.doubtful: list[int] = []
        self._quotas = quotas
        self._salt = salt
        self._numbers = 0
        self._prune = MANY_SPACES
        self.overhead = Overhead(budget, self)
        self.overhead.open()

    def __iter__(self) -> Iterator[Entry]:
        """Every entry that does not rest, once, in no order."""
        yield from self.fast.held.values()
        if self.slow is not None:
            yield from (e for e in self.slow.held.values() if e not in self.fast)

    @property
    def contexts(self) -> int:
        """How many contexts are held."""
        return sum(space.contexts for space in self.spaces.values())

    def space(self, name: str) -> Namespace:
        """The namespace of that name; those that hold nothing are forgotten now and then."""
        found = self.spaces.get(name)
        if found is None:
            if len(self.spaces) >= self._prune:
                kept = {k: held for k, held in self.spaces.items() if held.bytes or held.contexts}
                for key, space in self.spaces.items():
                    if key not in kept:
                        self.resting.release(space)
                self.spaces.clear()
                self.spaces.update(kept)
                self._prune = max(MANY_SPACES, 2 * len(kept))
            found = Namespace(name, key_hash(name, self._salt), self._quotas.get(name))
            self.spaces[name] = found
            self.overhead.space_added()
        return found

    def free_key(self, key: int, *parts: str) -> int:
        """`key`, or another number where that one is taken."""
        while key in self.fast.held or (self.slow is not None and key in self.slow.tier):
            self._numbers += 1
            key = key_hash(*parts, self._numbers, time.monotonic_ns())
        return key

    # Looking for entries

    def named(self, space: Namespace, name: str) -> Entry | None:
        """The entry that a context ends with; None when it is not held."""
        entry = space.names.get(name)
        if entry is None and space.resting:
            found = self.resting.named(space, name)
            entry = None if found is None else self.rest.wake(found[0].key, found[1])
        return entry

    def listed(self, space: Namespace, key: int) -> Entry | None:
        """The entry that a namespace knows by the hash of its first block."""
        entry = space.blocks.get(key)
        if entry is None and space.resting:
            row = self.resting.get(key)
            if row is not None and row.space is space and row.flags & LISTED:
                entry = self.rest.wake(key)
        return entry

    def kids(self, entry: Entry) -> list[Entry]:
        """Every entry that continues `entry`."""
        if entry.resting_kids:
            for row in self.resting.kids(entry.key):
                self.rest.wake(row.key)
        return entry.kids

    # Reading

    def read(self, entry: Entry) -> Payload | None:
        """The payload of `entry`, from the first tier that has it, and from then on in memory.

        None when it was found damaged; then it is forgotten, with all that continues it.

        Raises:
            ChangedError: when another process may have deleted it meanwhile.
        """
        if self.fast.held.get(entry.key) is entry:
            self.fast.hits += 1
            return self.fast.tier[entry.key]
        assert self.slow is not None
        try:
            payload: Payload = self.slow.tier[entry.key]
        except KeyError:
            if not self.slow.tier.steady:
                raise ChangedError from None
            self.lose_copy(self.slow, entry)
            return None
        self.slow.hits += 1
        if not self.slow.tier.maps(entry.size):
            self._lift(entry, payload)
        return payload

    def tokens(self, entry: Entry) -> NDArray[Any] | None:
        """The own tokens of `entry`; None when they were found damaged."""
        payload = self.read(entry)
        return None if payload is None else payload.view(self.dtype)

    def token_pieces(self, entry: Entry) -> list[NDArray[Any]]:
        """The same, in the pieces that they are in, so that nothing is copied."""
        if self.fast.held.get(entry.key) is entry:
            return [piece.view(self.dtype) for piece in self.fast.tier.pieces(entry.key)]
        tokens = self.tokens(entry)
        return [] if tokens is None else [tokens]

    def touch(self, entry: Entry) -> None:
        """`entry` was used, and so was all it continues."""
        at: Entry | None = entry
        fast, slow = self.fast, self.slow
        while at is not None:
            if fast.held.get(at.key) is at:
                fast.eviction.touch(at.key)
            if slow is not None and slow.held.get(at.key) is at:
                slow.eviction.touch(at.key)
            at = at.above

    # Writing

    def put(self, entry: Entry, payload: NDArray[Any]) -> bool:
        """Hold `payload` as that of `entry`, which is new; False when no tier has room."""
        above = entry.above
        kept = [level.keep for level in self.levels]
        for level in self.levels:
            level.keep = above
        try:
            return self._within_quota(entry) and self._enter(entry) and self._put(entry, payload)
        finally:
            for level, former in zip(self.levels, kept, strict=True):
                level.keep = former
            if above is not None:
                self.discard_unless_needed(above)

    def _enter(self, entry: Entry) -> bool:
        """Have room in the books for a new entry, if need be by having others rest."""
        if self.overhead.enter(entry):
            return True
        above = entry.above
        if above is not None:
            above.pins += 1
        self.rest.settle()
        if above is not None:
            above.pins -= 1
            self.rest.notice(above)
        return self.overhead.enter(entry)

    def _put(self, entry: Entry, payload: NDArray[Any]) -> bool:
        slow = self.slow
        # What is read in place from below gains nothing from a copy in memory.
        below = slow is not None and self.through and slow.tier.maps(entry.size)
        held = below and self._put_slow(entry, payload)
        if not held:
            held = self._put_fast(entry, payload)
            if slow is not None and not below and (self.through or not held):
                held = self._put_slow(entry, payload) or held
        if held:
            self.know(entry)
        else:
            self.overhead.leave(entry)
        return held

    def know(self, entry: Entry) -> None:
        """`entry`, which a shelf holds and which is in the books, can be found from now on."""
        entry.attach()
        entry.space.bytes += entry.size
        self.know_names(entry)
        self.rest.notice(entry)

    def know_names(self, entry: Entry) -> None:
        space = entry.space
        if not entry.is_state and entry.name is not None:
            space.names[entry.name] = entry
        if entry.listed:
            space.blocks[entry.key] = entry
        if entry.expires is not math.inf:
            self.expires(entry)

    def expires(self, entry: Entry) -> None:
        """See that `entry` goes when it expires."""
        if len(self.expiring) > 2 * self.overhead.entries + 64:
            self.expiring = [item for item in self.expiring if self.holds(item[2])]
            heapify(self.expiring)
        self._numbers += 1
        heappush(self.expiring, (entry.expires, self._numbers, entry))

    def holds(self, entry: Entry) -> bool:
        """Whether `entry` is in any tier."""
        return entry in self.fast or (self.slow is not None and entry in self.slow)

    def remove(self, entry: Entry) -> None:
        """Take the name off `entry`, a context; it goes as soon as nothing continues it."""
        assert entry.name is not None
        self.check_removable(entry.name, self.slow is not None and entry in self.slow)
        if entry.state is not None:
            self.discard(entry.state)
        if entry.is_leaf:
            self.discard(entry)
            return
        if self.slow is not None and entry in self.slow:
            header = EntryHeader.unpack(self.slow.tier.header(entry.key))
            if header is not None:  # Otherwise it is damaged, which reading it will show.
                self.slow.tier.replace_header(entry.key, header._replace(nameless=True).pack())
        self.unname(entry)

    def remove_context(self, space: Namespace, name: str) -> bool:
        """Remove a context, also one that there is no memory to wake or to know; if any was."""
        unknown = self.rest.remove_unknown(space.name, name)
        entry = space.names.get(name)
        if entry is not None:
            self.remove(entry)
            return True
        found = self.resting.named(space, name) if space.resting else None
        if found is not None:
            self.rest.remove(found[0])
        return unknown or found is not None

    def remove_state(self, space: Namespace, name: str) -> None:
        """Remove the state of a context, if it has one."""
        self.rest.remove_unknown(space.name, name, states=True)
        entry = space.names.get(name)
        if entry is not None and entry.state is not None:
            self.discard(entry.state)
        found = self.resting.named(space, name) if entry is None and space.resting else None
        if found is not None:
            self.rest.remove_state(*found)

    def check_removable(self, name: str, below: bool) -> None:
        if below and self.slow is not None and not self.slow.tier.writable:
            raise StoreError(
                f"{name!r} is in a store that cannot be written to, so it can be neither "
                "removed nor replaced; expected a folder open to writing."
            )

    def unname(self, entry: Entry) -> None:
        """`entry` is the end of no context any longer."""
        assert entry.name is not None
        del entry.space.names[entry.name]
        self.overhead.rename(entry, None)

    def discard(self, entry: Entry) -> None:
        """Delete `entry`, which nothing continues, from every tier; it may be gone already."""
        levels = [level for level in self.levels if entry in level]
        for level in levels:
            level.drop(entry)
        if levels:
            self.forget(entry)

    def lose_copy(self, level: TierWithEviction[Any], entry: Entry) -> None:
        """A shelf's payload of `entry` is damaged: it goes, and with it what has no other copy."""
        for kid in [*entry.kids, *([entry.state] if entry.state is not None else [])]:
            if kid in level:
                self.lose_copy(level, kid)
        if level is self.slow and entry.resting_kids:
            for row in self.resting.kids(entry.key):
                self.rest.lose(row.key)
        if entry in level:
            level.drop(entry)
            if not self.holds(entry):
                self.forget(entry)
            else:
                self.rest.notice(entry)

    def clear(self, space: Namespace) -> int:
        """Remove all contexts of a namespace; how many there were."""
        entries = list(space.names.values())
        for entry in entries:
            self.remove(entry)
        rows = [row for row in self.resting if row.space is space and row.named]
        for row in rows:
            self.rest.remove(row)
        return len(entries) + len(rows)

    def evict_bytes(self, size: int) -> int:
        """Evict entries from every tier until `size` bytes of them are gone, or none is left."""
        gone = 0
        while gone < size and (freed := self.rest.evict_unknown() or self.rest.evict()):
            gone += freed
        for level in reversed(self.levels):
            while gone < size:
                entry = self._victim(level)
                if entry is None:
                    break
                gone += entry.size
                self._evict_whole(entry)
        return gone

    def evict(self, entry: Entry) -> None:
        """Make room in memory: `entry` goes down a tier, or out.

        What is put on both shelves at once and is not on the second had to leave that before.
        """
        if self.slow is not None and not self.through and entry not in self.slow:
            self._save(entry)
        self.fast.drop(entry, evicted=True)
        if self.slow is None or entry not in self.slow:
            self.forget(entry)
        else:
            self.rest.notice(entry)

    def evict_one(self) -> bool:
        """Evict from memory what is worth the least there; False when nothing may leave."""
        fast = self.fast
        key = fast.eviction.victim(None, fast.may_go)
        if key is None:
            return False
        self.evict(fast.held[key])
        return True

    def evict_slow(self, entry: Entry) -> None:
        """Make room below memory; what is in memory too stays there."""
        assert self.slow is not None
        self.slow.drop(entry, evicted=True)
        if entry not in self.fast:
            self.forget(entry)

    def forget(self, entry: Entry) -> None:
        """`entry` is in no tier any longer."""
        space = entry.space
        space.bytes -= entry.size
        if entry.name is not None and not entry.is_state and space.names.get(entry.name) is entry:
            del space.names[entry.name]
        if entry.listed:
            del space.blocks[entry.key]
        entry.detach()
        self.overhead.leave(entry)
        above = entry.above
        if above is not None:
            self.discard_unless_needed(above)
            self.rest.notice(above)

    def expire(self) -> None:
        """Delete what has been held for as long as it was to be."""
        while self.expiring and self.expiring[0][0] <= time.monotonic():
            entry = heappop(self.expiring)[2]
            if entry.name is None or not self.holds(entry):
                continue
            self.expired += 1
            if entry.is_state:
                self.discard(entry)
            else:
                self.remove(entry)
        for row in self.resting.expired(time.monotonic()):
            if row.key in self.resting:  # It may have been the state of one that was before.
                self.expired += 1
                if row.flags & STATE:
                    self.rest.drop(row.key)
                elif not row.flags & NAMELESS:
                    self.rest.remove(row)

    @property
    def next_expiry(self) -> float:
        """When something may expire next, on the monotonic clock."""
        awake = self.expiring[0][0] if self.expiring else math.inf
        return min(awake, self.resting.soonest)

    # Pins

    def pin(self, entry: Entry) -> None:
        """`entry` may not leave a tier that it is in."""
        entry.pins += 1
        for level in self.levels:
            if entry in level:
                level.eviction.pin(entry.key)

    def pin_for_all(self, entry: Entry) -> None:
        """Like `pin`, and in every process that shares a tier."""
        self.pin(entry)
        if self.slow is not None:
            self.slow.tier.pin(entry.key)

    def unpin_for_all(self, entry: Entry) -> None:
        """One such pin fewer."""
        self.unpin(entry)
        if self.slow is not None:
            self.slow.tier.unpin(entry.key)

    def unpin(self, entry: Entry) -> None:
        """One pin fewer."""
        entry.pins -= 1
        for level in self.levels:
            if entry in level:
                level.eviction.unpin(entry.key)
        self.discard_unless_needed(entry)
        self.rest.notice(entry)

    def discard_unless_needed(self, entry: Entry) -> None:
        kept = any(level.keep is entry for level in self.levels)
        if entry.name is None and entry.is_leaf and not entry.pins and not kept:
            if self.slow is None or (self.slow.tier.steady and not self.slow.following):
                self.discard(entry)
            else:  # Another process may have continued it.
                self.doubtful.append(entry.key)

    def settle(self) -> None:
        """Delete what turned out to be of no use, now that nobody else changes anything."""
        slow = self.slow
        if slow is None or not slow.tier.steady or not slow.tier.writable:
            return
        doubtful, self.doubtful = self.doubtful, []
        for key in doubtful:
            entry = slow.held.get(key) or self.fast.held.get(key)
            if entry is not None:
                self.discard_unless_needed(entry)
            else:
                self.rest.drop_unless_needed(key)
        useless, self.useless = self.useless, []
        for key in useless:
            if key in slow.tier and key not in slow.held and key not in self.resting:
                del slow.tier[key]

    # Shelves

    def save(self) -> None:
        """Put everything that is only in memory on the second shelf too, as far as it has room."""
        if self.slow is not None:
            for entry in list(self.fast.held.values()):
                if entry not in self.slow:
                    self._save(entry)

    def _put_fast(self, entry: Entry, payload: NDArray[Any]) -> bool:
        tier = self.fast.tier
        if not tier.fits(entry.size) or not self._lifted(entry.above):
            return False
        stored = tier.store(entry.key, payload)
        if not stored:
            kept, self.fast.keep = self.fast.keep, entry.above
            stored = self.fast.with_room(entry, lambda: tier.store(entry.key, payload), self.evict)
            self.fast.keep = kept
        if not stored:
            return False
        self.fast.add(entry)
        return True

    def _put_slow(self, entry: Entry, payload: NDArray[Any]) -> bool:
        slow = self.slow
        assert slow is not None
        above = entry.above
        if not slow.tier.fits(entry.size) or (above is not None and not self._save(above)):
            return False
        header = self._header(entry)

        def attempt() -> bool:
            return self.overhead.may_be_below() and slow.tier.store(entry.key, payload, header)

        stored = attempt()
        while not stored and (self.rest.evict_unknown() or self.rest.evict()):
            stored = attempt()
        if not stored:
            kept, slow.keep = slow.keep, above
            stored = slow.with_room(entry, attempt, self.evict_slow)
            slow.keep = kept
        if stored:
            slow.add(entry)
        return stored

    def _save(self, entry: Entry) -> bool:
        """Have `entry`, and what it continues, on the second shelf too."""
        assert self.slow is not None
        return entry in self.slow or self._put_slow(entry, self.fast.tier[entry.key])

    def _lifted(self, entry: Entry | None) -> bool:
        """Have `entry`, and what it continues, in memory too."""
        if entry is None or entry in self.fast:
            return True
        return self.read(entry) is not None and entry in self.fast

    def _lift(self, entry: Entry, payload: Payload) -> None:
        """Hold `payload`, read from below, in memory too, if there is room."""
        self.pin(entry)
        try:
            self._put_fast(entry, payload)
        finally:
            self.unpin(entry)

    def _within_quota(self, entry: Entry) -> bool:
        space = entry.space
        if space.quota is None:
            return True
        if entry.size > space.quota:
            return False
        while space.bytes + entry.size > space.quota:
            if self.rest.evict(space):
                continue
            victims = (self._victim(level, space) for level in reversed(self.levels))
            victim = next((entry for entry in victims if entry is not None), None)
            if victim is None:
                return False
            self._evict_whole(victim)
        return True

    def _victim(self, level: TierWithEviction[Any], space: Namespace | None = None) -> Entry | None:
        """What is worth the least on a shelf, of `space` or of all, and may leave every tier."""

        def may_go(key: Hashable) -> bool:
            entry = level.held[key]
            return (
                (space is None or entry.space is space)
                and entry.is_leaf
                and all(other.may_go(key) for other in self.levels if entry in other)
            )

        key = level.eviction.victim(None, may_go)
        return None if key is None else level.held[key]

    def _evict_whole(self, entry: Entry) -> None:
        for level in self.levels:
            if entry in level:
                level.drop(entry, evicted=True)
        self.forget(entry)

    def _header(self, entry: Entry) -> bytes:
        above = entry.above
        left = entry.expires - time.monotonic() if entry.expires is not math.inf else math.inf
        name = entry.name if entry.name is not None else ""
        return EntryHeader(
            entry.space.name,
            name,
            entry.name is None,
            entry.is_state,
            entry.listed,
            1 if entry.is_state else self.dtype.itemsize,
            above.key if above is not None else 0,
            entry.at,
            entry.cost,
            time.time(),
            left,
            entry.version,
        ).pack()

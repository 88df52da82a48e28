"""Going to rest and waking: entries that leave memory, and come back when they are looked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transom.memory.entry import Entry, Namespace
from transom.memory.entry_header import LISTED, NAMELESS, STATE, EntryHeader
from transom.memory.resting import HAS_STATE, Resting, Row, hash_of
from transom.memory.unknown import Unknown

if TYPE_CHECKING:
    from transom.memory.entry_store import EntryStore

__all__ = ["ChangedError", "Rest"]

FEW = 64  # keys


class ChangedError(Exception):
    """Another process changed what is being read; to be read again, in turn with the others."""


class Rest:
    """Entries of the second shelf on their way between memory and rows, and rows on theirs out.

    Attributes:
        unknown: what is on the second shelf and there was no room in the books for.
    """

    def __init__(self, store: EntryStore, rows: Resting) -> None:
        self._store = store
        self._rows = rows
        self.unknown = Unknown()
        self._restless: dict[int, Entry] = {}  # on the second shelf only, since they were looked at

    def wake(self, key: int, header: EntryHeader | None = None) -> Entry | None:
        """The entry of `key`, which rests, with what it continues and its state.

        None when it was found damaged, and is gone, or there is no memory for it now.

        Args:
            key: of the entry.
            label: what the tier has beside it, where that was read already.

        Raises:
            ChangedError: when another process may have deleted it meanwhile.
        """
        slow = self._store.slow
        assert slow is not None
        chain = []
        above = key
        while above and above not in slow.held:
            row = self._rows.get(above)
            assert row is not None
            chain.append(row)
            above = row.above
        entry = None
        for row in reversed(chain):
            entry = self._wake(row, header if row.key == key else None)
            if entry is None:
                return None
        return entry

    def _wake(self, row: Row, header: EntryHeader | None = None) -> Entry | None:
        slow, resting = self._store.slow, self._rows
        assert slow is not None
        if row.key not in resting:
            return slow.held.get(row.key)  # a state, which woke with its context
        header = header or resting.header(row.key)
        if header is None:
            if not slow.tier.steady:
                raise ChangedError
            slow.tier.corrupt += 1
            self.lose(row.key)
            return None
        above = slow.held[row.above] if row.above else None
        state = bool(row.flags & STATE)
        entry = Entry(
            row.key,
            row.space,
            None if row.flags & NAMELESS else header.name,
            row.size,
            None if state else above,
            header.at,
            header.cost,
            row.expires,
            above if state else None,
        )
        entry.version = header.version
        entry.flags |= row.flags & LISTED
        entry.resting_kids = row.kids
        resting.add_kids(row.key, 1)  # so that it does not leave to make room for itself
        if above is not None:
            above.pins += 1
        known = self._store.overhead.enter(entry)
        if above is not None:
            above.pins -= 1
        if not known:
            resting.add_kids(row.key, -1)
            return None
        resting.remove(row.key)
        slow.add(entry)
        for _ in range(entry.resting_kids):
            slow.eviction.pin(entry.key)
        entry.attach()
        if above is not None:
            self.add_kids_of(above, -1)
        self._store.know_names(entry)
        self._restless[row.key] = entry
        if row.flags & HAS_STATE:
            found = resting.state(entry.key, entry.space, header.name)
            if found is not None and self._wake(found) is None and found.key in resting:
                self.drop(found.key, evicted=True)  # without memory to know it, it goes
        return entry

    def add_kids_of(self, entry: Entry, more: int) -> None:
        """One more, or fewer, at rest continues `entry`, which may not leave before that does."""
        slow = self._store.slow
        assert slow is not None
        entry.resting_kids += more
        if more > 0:
            slow.eviction.pin(entry.key)
        else:
            slow.eviction.unpin(entry.key)

    def settle(self) -> None:
        """Keep but a row of what is on the second shelf only and was not looked at again."""
        if not self._restless:
            return
        waiting, self._restless = self._restless, {}
        entries = list(waiting.values())
        while entries:
            entry = entries.pop()
            self._restless.pop(entry.key, None)
            if self._only_below(entry) and self._may_rest(entry):
                above = entry.above
                self._rest(entry)
                if above is not None:
                    entries.append(above)

    def _only_below(self, entry: Entry) -> bool:
        fast, slow = self._store.fast, self._store.slow
        return slow is not None and entry in slow and entry not in fast

    def notice(self, entry: Entry | None) -> None:
        """`entry` may rest from now on, if nothing else keeps it."""
        if entry is not None and self._only_below(entry):
            self._restless[entry.key] = entry

    def _may_rest(self, entry: Entry) -> bool:
        state = entry.state
        return (
            not entry.pins
            and not entry.is_state
            and entry.first_kid is None
            and (state is None or not (state.pins or state in self._store.fast))
        )

    def _rest(self, entry: Entry) -> None:
        state = entry.state
        entry.pins += 1  # so that it does not go with what continues it and makes room
        if state is not None:
            self._to_row(state)
        self._to_row(entry, state)
        entry.pins -= 1

    def _to_row(self, entry: Entry, state: Entry | None = None) -> None:
        """Have a row in place of `entry`, after its `state`; without room even for that it leaves.

        What makes room may have continued it, so it is looked at only then.
        """
        slow = self._store.slow
        assert slow is not None
        if not self.row_room():
            self._store.evict_slow(entry)
            if not slow.tier.writable:
                self.not_known(entry.key)
            return
        above = entry.above
        flags = entry.flags & (STATE | LISTED) | NAMELESS * (entry.name is None)
        if state is not None and state.key in self._rows:
            flags |= HAS_STATE
        row = Row(
            entry.key,
            entry.space,
            above.key if above is not None else 0,
            entry.size,
            entry.start,
            entry.resting_kids,
            flags,
            entry.expires,
        )
        if entry.name is None and not entry.resting_kids:
            self._store.doubtful.append(entry.key)
        slow.leave(entry)
        if entry.listed:
            del entry.space.blocks[entry.key]
        if entry.name is not None and not entry.is_state:
            del entry.space.names[entry.name]
        entry.detach()
        if above is not None:
            self.add_kids_of(above, 1)
        self._store.overhead.leave(entry)
        self._rows.add(row, entry.name or "")

    def row_room(self) -> bool:
        """Have room for one more row: of what was not used for longest, if need be.

        That leaves the disk, unless there is what is not known here, which leaves it before.
        """
        if not self._rows.full or self._store.overhead.grow():
            return True
        return (len(self.unknown) > 0 and self._unlearn_oldest()) or self.evict() > 0

    def learn_room(self, above: int) -> bool:
        """Have room to know one more that another process has stored, and that continues `above`.

        If need be, what was not used for longest is no longer known here, and stays there.
        """
        return not self._rows.full or self._store.overhead.grow() or self._unlearn_oldest(above)

    def _unlearn_oldest(self, above: int = 0) -> bool:
        row = self._rows.oldest(lambda row: row.key != above and bool(self._line(row, above)))
        if row is None:
            return False
        line = self._line(row, above)
        for row in line:
            self._unlearn(row)
        if line[-1].above:
            self._rows.add_kids(line[-1].above, -1)
        return True

    def _line(self, row: Row, above: int) -> list[Row]:
        """`row`, what only it continues, what only that continues, and so on, but not `above`.

        Without the first, the others would be taken for what nothing continues. None of them
        when that leads to one that is awake.
        """
        slow = self._store.slow
        assert slow is not None
        line = [row]
        while row.above:
            former = None if row.above in slow.held else self._rows.get(row.above)
            if former is None:
                return []
            if former.kids > 1 or former.key == above:
                break
            row = former
            line.append(row)
        return line

    def _unlearn(self, row: Row) -> None:
        self._rows.remove(row.key)
        row.space.bytes -= row.size
        self.not_known(row.key)

    def not_known(self, key: int) -> None:
        """There was no room to know `key`, which is on the second shelf."""
        self.forget_gone()
        self.unknown.add(key, self.hash_at(key))

    def forget_gone(self) -> None:
        """Keep no more keys of what is not known than there are payloads."""
        slow = self._store.slow
        assert slow is not None
        if len(self.unknown) > 2 * len(slow.tier) + FEW:
            there = dict(self.unknown.items())
            self.unknown.fill(
                (key, hashed)
                for key, hashed in there.items()
                if key in slow.tier and key not in slow.held and key not in self._rows
            )

    def hash_at(self, key: int) -> int:
        """The hash of the id that `key` has on the second shelf; 0 where it cannot be read."""
        header = self._rows.header(key)
        return 0 if header is None else hash_of(header.space, header.name)

    def remove_unknown(self, space: str, name: str, *, states: bool = False) -> bool:
        """Take the name off a context that is not known here, for who will know it; if there is.

        Args:
            space: its namespace.
            name: its id.
            states: its state only.
        """
        slow, found = self._store.slow, False
        for key in self.unknown.of(hash_of(space, name)) if self.unknown else ():
            header = self._rows.header(key)
            assert slow is not None
            known = key in slow.held or key in self._rows or key not in slow.tier
            if known or header is None or (header.space, header.name) != (space, name):
                continue
            if header.state or not (states or header.nameless):
                self._store.check_removable(name, True)
                found = found or not header.state
                if header.state:
                    del slow.tier[key]
                else:  # What others may continue.
                    slow.tier.replace_header(key, header._replace(nameless=True).pack())
        return found

    def clear_unknown(self, space: str | None) -> int:
        """Delete what is not known here, of a namespace or of all; how many contexts it was."""
        slow, contexts = self._store.slow, 0
        for key in list(self.unknown):
            header = self._rows.header(key)
            assert slow is not None
            known = key in slow.held or key in self._rows or key not in slow.tier
            if known or header is None or space not in (None, header.space):
                continue
            self._store.check_removable(header.name, True)
            contexts += not (header.state or header.nameless)
            del slow.tier[key]
        return contexts

    def evict(self, space: Namespace | None = None) -> int:
        """Evict from the disk what has been at rest for longest; its bytes, 0 if nothing may go.

        Args:
            space: of which namespace; None for whichever.
        """
        slow = self._store.slow
        if slow is None or not slow.tier.writable:
            return 0
        row = self._rows.oldest(
            lambda row: (space is None or row.space is space) and slow.tier.may_go(row.key)
        )
        if row is None:
            return 0
        self.drop(row.key, evicted=True)
        return max(1, row.size)

    def evict_unknown(self) -> int:
        """Evict from the disk one of those that are not known here; its bytes, 0 without one."""
        slow = self._store.slow
        while slow is not None and slow.tier.writable and self.unknown:
            key = self.unknown.pop()
            known = key in slow.held or key in self._rows
            if not known and key in slow.tier and slow.tier.may_go(key):
                size = slow.tier.size(key)
                del slow.tier[key]
                slow.evicted += 1
                return max(1, size)
        return 0

    def drop(self, key: int, *, evicted: bool = False) -> None:
        """Delete `key`, which rests, and which nothing continues."""
        slow = self._store.slow
        assert slow is not None
        row = self._rows.remove(key)
        row.space.bytes -= row.size
        slow.evicted += evicted
        if slow.following:
            self._store.useless.append(key)  # if it is still there when all is learnt
        elif slow.tier.writable and key in slow.tier:
            del slow.tier[key]
        if row.above:
            self._kid_gone(row.above, bool(row.flags & STATE))

    def _kid_gone(self, key: int, state: bool) -> None:
        """What continued `key` at rest, or was its state, is gone."""
        assert self._store.slow is not None
        entry = self._store.slow.held.get(key)
        if entry is not None:
            self.add_kids_of(entry, -1)
            self._store.discard_unless_needed(entry)
            self.notice(entry)
        elif key in self._rows:
            if state:
                self._rows.flag(key, HAS_STATE, on=False)
            self._rows.add_kids(key, -1)
            self.drop_unless_needed(key)

    def drop_unless_needed(self, key: int) -> None:
        row = self._rows.get(key)
        assert self._store.slow is not None
        if row is not None and not row.kids and row.flags & NAMELESS:
            if self._store.slow.tier.steady and not self._store.slow.following:
                self.drop(key)
            else:
                self._store.doubtful.append(key)

    def lose(self, key: int) -> None:
        """`key`, which rests, is damaged or gone, and with it what continues it."""
        row = self._rows.get(key)
        if row is not None and row.kids:
            for kid in self._rows.kids(key):
                self.lose(kid.key)
        if key in self._rows:  # Without a name it may have gone with the last of them.
            self.drop(key)

    def remove(self, row: Row) -> None:
        """Take the name off a context that rests; it goes as soon as nothing continues it."""
        slow = self._store.slow
        assert slow is not None
        header = self._rows.header(row.key)
        if header is None:
            self.lose(row.key)
            return
        self._store.check_removable(header.name, True)
        self.remove_state(row, header)
        if self._rows.add_kids(row.key, 0):
            slow.tier.replace_header(row.key, header._replace(nameless=True).pack())
            self._rows.unname(row.key)
        else:
            self.drop(row.key)

    def remove_state(self, row: Row, header: EntryHeader) -> None:
        """Delete the state of a context that rests, if it has one."""
        state = None
        if row.flags & HAS_STATE:
            state = self._rows.state(row.key, row.space, header.name)
        if state is not None:
            self.drop(state.key)

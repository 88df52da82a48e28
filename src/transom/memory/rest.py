"""Entries go to rest, and wake when they are looked for."""

from __future__ import annotations

from transom.memory.entry import Entry
from transom.memory.entry_header import LISTED, NAMELESS, STATE, EntryHeader
from transom.memory.entry_tables import EntryTables
from transom.memory.forgetting import Forgetting
from transom.memory.lifecycle import Lifecycle
from transom.memory.overhead import Overhead
from transom.memory.row import HAS_STATE, Row
from transom.memory.slow_eviction import SlowEviction
from transom.memory.unknown_entries import UnknownEntries

__all__ = ["ChangedError", "Rest"]


class ChangedError(Exception):
    """Another process changed what is being read; read it again under the lock."""


class Rest:
    """Makes rows of entries that are not in use, and entries of rows that are looked for."""

    def __init__(
        self,
        tables: EntryTables,
        overhead: Overhead,
        unknown: UnknownEntries,
        forgetting: Forgetting,
        lifecycle: Lifecycle,
        slow_eviction: SlowEviction,
    ) -> None:
        self._tables = tables
        self._overhead = overhead
        self._unknown = unknown
        self._forgetting = forgetting
        self._lifecycle = lifecycle
        self._slow_eviction = slow_eviction

    # Waking

    def wake(self, key: int, header: EntryHeader | None = None) -> Entry | None:
        """The entry of `key`, which is at rest; all that it continues, and its state, wake too.

        Args:
            key: of the entry.
            header: its header, if that was read already.

        Returns:
            The entry; None when it was found damaged and is forgotten, or there is no memory.

        Raises:
            ChangedError: when another process may have deleted it meanwhile.
        """
        held = self._tables.below.held
        chain = []
        above = key
        while above and above not in held:
            row = self._tables.resting.get(above)
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
        tables, slow, resting = self._tables, self._tables.below, self._tables.resting
        if row.key not in resting:
            return slow.held.get(row.key)  # a state, which woke with its context
        header = header or resting.header(row.key)
        if header is None:
            if not slow.payloads.steady:
                raise ChangedError
            slow.payloads.corrupt += 1
            self._forgetting.forget_row_with_kids(row.key)
            return None
        above = slow.held[row.above] if row.above else None
        entry = _entry(row, header, above)
        resting.add_kids(row.key, 1)  # so that it is not evicted to make room for itself
        if above is not None:
            above.pins += 1
        known = self._overhead.enter(entry)
        if above is not None:
            above.pins -= 1
        if not known:
            resting.add_kids(row.key, -1)
            return None
        resting.forget(row.key)
        slow.add(entry)
        for _ in range(entry.resting_kids):
            slow.eviction.pin(entry.key)
        entry.link()
        if above is not None:
            tables.add_resting_kids(above, -1)
        self._lifecycle.add_names(entry)
        tables.idle[row.key] = entry
        if row.flags & HAS_STATE:
            state = resting.state(entry.key, entry.space, header.name)
            if state is not None and self._wake(state) is None and state.key in resting:
                self._forgetting.forget_row(state.key, evicted=True)  # no memory for it
        return entry

    # Going to rest

    def put_to_rest(self) -> None:
        """Put idle entries to rest if nothing keeps them in use, then the entries they continue."""
        tables = self._tables
        if not tables.idle:
            return
        waiting, tables.idle = tables.idle, {}
        entries = list(waiting.values())
        while entries:
            entry = entries.pop()
            tables.idle.pop(entry.key, None)
            if tables.only_below(entry) and self._may_rest(entry):
                above = entry.above
                self._put_to_rest(entry)
                if above is not None:
                    entries.append(above)

    def _may_rest(self, entry: Entry) -> bool:
        state = entry.state
        return (
            not entry.pins
            and not entry.is_state
            and entry.first_kid is None
            and (state is None or not (state.pins or state in self._tables.fast))
        )

    def _put_to_rest(self, entry: Entry) -> None:
        state = entry.state
        entry.pins += 1  # so that it is not forgotten with its state
        if state is not None:
            self._to_row(state)
        self._to_row(entry, state)
        entry.pins -= 1

    def _to_row(self, entry: Entry, state: Entry | None = None) -> None:
        """Put a row in place of `entry`; without room for the row, evict the entry.

        Making room may evict its kids or its `state`, so these are read after that.
        """
        tables, slow = self._tables, self._tables.below
        if not self._make_row_room():
            self._slow_eviction.evict_entry(entry)
            if not slow.payloads.writable:
                self._unknown.add(entry.key)
            return
        above = entry.above
        flags = entry.flags & (STATE | LISTED) | NAMELESS * (entry.name is None)
        if state is not None and state.key in tables.resting:
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
            tables.perhaps_unneeded.append(entry.key)
        slow.forget(entry, delete=False)
        if entry.listed:
            del entry.space.blocks[entry.key]
        if entry.name is not None and not entry.is_state:
            del entry.space.names[entry.name]
        entry.unlink()
        if above is not None:
            tables.add_resting_kids(above, 1)
        self._overhead.forget(entry)
        tables.resting.add(row, entry.name or "")

    # Room for rows

    def _make_row_room(self) -> bool:
        """Make room for one more row; False if that is not possible.

        If there are unknown entries already, the oldest row is forgotten and its entry becomes
        unknown too. Otherwise, or if no row can be forgotten, the oldest entry is evicted.
        """
        if not self._tables.resting.full or self._overhead.grow():
            return True
        if len(self._tables.unknown) > 0 and self._forget_oldest():
            return True
        return self._slow_eviction.evict_resting() > 0

    def make_room_to_learn(self, above: int) -> bool:
        """Make room for the row of an entry that another process stored and that continues `above`.

        If need be, the oldest rows are forgotten and their entries become unknown.
        """
        return not self._tables.resting.full or self._overhead.grow() or self._forget_oldest(above)

    def _forget_oldest(self, above: int = 0) -> bool:
        """Forget the oldest row that may go, but not `above`; its entry becomes unknown."""
        resting = self._tables.resting
        row = resting.oldest(lambda row: row.key != above and bool(self._line(row, above)))
        if row is None:
            return False
        line = self._line(row, above)
        for row in line:
            resting.forget(row.key)
            row.space.bytes -= row.size
            self._unknown.add(row.key)
        if line[-1].above:
            resting.add_kids(line[-1].above, -1)
        return True

    def _line(self, row: Row, above: int) -> list[Row]:
        """The rows to forget with `row`: the entry that only it continues, and so on up the line.

        Otherwise a row whose only kid is unknown would look like one that nothing continues. The
        line ends below `above`. It is empty when it leads to an entry in use.
        """
        slow, resting = self._tables.below, self._tables.resting
        line = [row]
        while row.above:
            former = None if row.above in slow.held else resting.get(row.above)
            if former is None:
                return []
            if former.kids > 1 or former.key == above:
                break
            row = former
            line.append(row)
        return line


def _entry(row: Row, header: EntryHeader, above: Entry | None) -> Entry:
    """The entry that a row and its header describe."""
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
    return entry

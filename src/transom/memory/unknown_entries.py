"""Adding and removing unknown entries: those on the slow tier without a row in memory."""

from __future__ import annotations

from transom.memory.entry_tables import EntryTables
from transom.memory.row import hash_of

__all__ = ["UnknownEntries"]

FEW = 64  # keys


class UnknownEntries:
    """Adds unknown entries to the tables, and removes them when a user asks for it.

    Everything but the key and a hash is read from the header on the slow tier.
    """

    def __init__(self, tables: EntryTables) -> None:
        self._tables = tables

    def add(self, key: int) -> None:
        """Add `key`, which is on the slow tier and for which there is no memory."""
        self.forget_gone()
        self._tables.unknown.add(key, self.hash_at(key))

    def forget_gone(self) -> None:
        """Keep no more keys of unknown entries than there are payloads."""
        tables = self._tables
        if len(tables.unknown) > 2 * len(tables.below.payloads) + FEW:
            found = dict(tables.unknown.items())
            tables.unknown.fill((key, hashed) for key, hashed in found.items() if self.has(key))

    def has(self, key: int) -> bool:
        """Whether `key`, which was unknown, still is, and is still there."""
        return key in self._tables.below.payloads and not self._tables.knows(key)

    def keys(self) -> set[int]:
        """Keys of all entries that are unknown now."""
        if self._tables.slow is None:
            return set()
        return {key for key in self._tables.unknown if self.has(key)}

    def hash_at(self, key: int) -> int:
        """The hash of the context id in the header of `key`; 0 where it cannot be read."""
        header = self._tables.resting.header(key)
        return 0 if header is None else hash_of(header.space, header.name)

    def remove(self, space: str, name: str, *, states_only: bool = False) -> bool:
        """Remove an unknown context or its state; whether there was such a context.

        Args:
            space: its namespace.
            name: its id.
            states_only: whether to remove only its state.
        """
        tables, found = self._tables, False
        for key in tables.unknown.of(hash_of(space, name)) if tables.unknown else ():
            header = tables.resting.header(key)
            if not self.has(key) or header is None or (header.space, header.name) != (space, name):
                continue
            if header.state or not (states_only or header.nameless):
                tables.check_removable(name, True)
                found = found or not header.state
                if header.state:
                    del tables.below.payloads[key]
                else:  # Others may continue it, so it stays without its name.
                    nameless = header._replace(nameless=True)
                    tables.below.payloads.replace_header(key, nameless.pack())
        return found

    def clear(self, space: str | None) -> int:
        """Remove all unknown entries of a namespace, or of all; how many contexts they were."""
        tables, contexts = self._tables, 0
        for key in list(tables.unknown):
            header = tables.resting.header(key)
            if not self.has(key) or header is None or space not in (None, header.space):
                continue
            tables.check_removable(header.name, True)
            contexts += not (header.state or header.nameless)
            del tables.below.payloads[key]
        return contexts

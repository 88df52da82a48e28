"""What a process reports to others about itself, as numbers in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

__all__ = ["EVERY", "Activity"]

EVERY = 0.1  # seconds between reports, while there is something to report


class Activity(NamedTuple):
    """A manager in one process.

    Attributes:
        at: seconds since 1970, times 1000.
        contexts: how many contexts it knows.
        bytes: bytes of memory that it takes.
        capacity: most bytes of memory that it may take.
        hits: contexts and states that were asked for and held.
        misses: contexts and states that were asked for and not held.
        refused: contexts and states that did not fit.
        ram_hits: payloads read from memory.
        ram_evicted: entries evicted from memory.
        disk_hits: payloads read from disk.
        disk_evicted: entries evicted from disk.
        corrupt: payloads found damaged.
    """

    at: int
    contexts: int
    bytes: int
    capacity: int
    hits: int
    misses: int
    refused: int
    ram_hits: int
    ram_evicted: int
    disk_hits: int
    disk_evicted: int
    corrupt: int

    @classmethod
    def of(cls, numbers: Sequence[int]) -> Self:
        """The activity in `numbers`, which may have more than are known here."""
        return cls(*numbers[: len(cls._fields)])

"""What a process tells others about itself, as numbers in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

__all__ = ["EVERY", "Activity"]

EVERY = 0.1  # seconds between reports, while there is something to report


class Activity(NamedTuple):
    """A manager in one process.

    Attributes:
        at: seconds since 1970, times 1000.
        contexts: ids it knows.
        bytes: memory it takes.
        capacity: and may take.
        hits: contexts and states that were asked for and held.
        misses: and that were not.
        refused: contexts and states that did not fit.
        ram_hits: payloads read from memory.
        ram_evicted: payloads that had to leave memory.
        disk_hits: payloads read from disk.
        disk_evicted: payloads that it had leave the disk.
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
        """The numbers under their names."""
        return cls(*numbers[: len(cls._fields)])

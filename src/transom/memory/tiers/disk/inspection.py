"""Inspecting a store from outside, without becoming one of its processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from transom.errors import StoreError
from transom.memory.tiers.disk.shared import CAPACITY, PEAK, PINS, USED, Shared

__all__ = ["StoreInspection", "inspect_store", "known_capacity"]


class StoreInspection(NamedTuple):
    """A store at one moment.

    Attributes:
        used: bytes it takes on disk.
        peak: most bytes taken since it was opened.
        capacity: most bytes that it may take.
        changes: how many entries were stored, removed or got a new header since it was made.
        pins: how many entries processes have pinned for others.
        processes: the processes that have it open: pid, and what each reported last.
    """

    used: int
    peak: int
    capacity: int
    changes: int
    pins: int
    processes: list[tuple[int, Sequence[int]]]


def inspect_store(path: Path) -> StoreInspection:
    """The store in a folder as it is now. Nothing is changed, and no process has to wait.

    Raises:
        StoreError: when there is no store.
    """
    try:
        shared = Shared(path / "shared", writable=False, ring=0)
    except PermissionError as error:
        raise StoreError(
            f"cannot read the store of contexts in {path}: {error.strerror}; it may belong to "
            "another user. Expected a folder whose files you may read."
        ) from error
    except OSError as error:
        raise StoreError(
            f"there is no store of contexts in {path} ({error.strerror}); expected the folder that "
            "a ContextMemoryManager was given as disk."
        ) from error
    try:
        words = shared.words
        return StoreInspection(
            used=words[USED],
            peak=words[PEAK],
            capacity=words[CAPACITY],
            changes=shared.generation,
            pins=words[PINS],
            processes=list(shared.reports()),
        )
    finally:
        shared.close()


def known_capacity(path: Path) -> int:
    """The capacity, in bytes, with which a store was opened last.

    Raises:
        StoreError: when there is no store.
    """
    return inspect_store(path).capacity

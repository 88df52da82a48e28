"""Putting right what killed processes left, before a store is used again."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

from transom.memory.tiers.disk.block_file import files, on_disk
from transom.memory.tiers.disk.data_file import FIRST, DataFile
from transom.memory.tiers.disk.shared import CAPACITY, INDEX, PEAK, SALT, USED, Shared

__all__ = ["finish_intent", "recover"]


def recover(path: Path, shared: Shared, data: DataFile, capacity: int) -> bool:
    """Make the store in `path` usable; whether no other process uses it.

    The caller holds the lock. Every process holds it while it changes a file, so bytes can be
    counted again.
    """
    if not data.salt:
        data.write_salt(shared.words[SALT] or secrets.randbits(63) | 1)
    shared.words[SALT] = data.salt
    shared.words[CAPACITY] = capacity
    if data.size < FIRST:
        data.grow(FIRST)
    others = shared.forget_dead_processes()
    finish_intent(shared, data)
    pids = {str(pid) for _, pid, _ in shared.processes()}
    for folder in (path, path / "blocks"):
        for stale in files(folder, ".tmp"):
            if stale.name.split(".")[-2] not in pids:
                with contextlib.suppress(OSError):
                    stale.unlink()
    if not others:
        shared.unpin_all()
        shared.words[PEAK] = 0
    shared.words[INDEX] = on_disk(path / "index")
    shared.words[USED] = used = recount(path)
    shared.words[PEAK] = max(shared.words[PEAK], used)
    return not others


def finish_intent(shared: Shared, data: DataFile) -> None:
    """Remove the record that a killed process was writing or removing."""
    start = shared.intent
    if FIRST <= start < data.size:
        data.remove(start)
    shared.intent = 0


def recount(path: Path) -> int:
    """Bytes that the file system has allocated for a store."""
    everything = [*files(path, ""), *files(path / "blocks", "")]
    return sum(on_disk(found) for found in everything if found.is_file())

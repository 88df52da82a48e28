"""One process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from transom.forks import closed_in_forks

__all__ = ["ExclusiveLock", "FolderLock"]


class FolderLock:
    """A lock on a file, which the system releases when the process ends, however it ends.

    Attributes:
        depth: how often this process has taken it and not released it.

    Notes:
        Threads need a lock of their own beside it.
    """

    def __init__(self, path: Path, writable: bool) -> None:
        flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
        # A fork that lives on must not keep the lock of its parent.
        self._file = closed_in_forks(os.fdopen(os.open(path, flags, 0o600), "rb", buffering=0))
        self.depth = 0

    def acquire(self) -> bool:
        """Take it, and wait for other processes; False when this process has it already."""
        if self.depth == 0:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        self.depth += 1
        return self.depth == 1

    def release(self) -> None:
        """Release it once; the lock is free when it was released as often as it was taken."""
        self.depth -= 1
        if self.depth == 0:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file, which releases the lock."""
        self._file.close()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


class ExclusiveLock:
    """A context in which only this process changes a store, and knows what others changed.

    Args:
        check: raises when the store cannot be used.
        lock: the lock between processes.
        catch_up: learns what others changed; called when the lock was not held before.
    """

    __slots__ = ("_catch_up", "_check", "_lock")

    def __init__(
        self, check: Callable[[], None], lock: FolderLock, catch_up: Callable[[], None]
    ) -> None:
        self._check = check
        self._lock = lock
        self._catch_up = catch_up

    def __enter__(self) -> None:
        self._check()
        if self._lock.acquire():
            self._catch_up()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

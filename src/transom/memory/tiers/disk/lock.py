"""One process at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from transom.forks import closed_in_forks

__all__ = ["FolderLock"]


class FolderLock:
    """A lock on a file, which the system lets go of when the process ends, however it ends.

    Notes:
        Counts how often this process took it; threads must take turns by a lock of their own.
    """

    def __init__(self, path: Path, writable: bool) -> None:
        flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
        # A fork that lives on must not keep the lock of its parent.
        self._file = closed_in_forks(os.fdopen(os.open(path, flags, 0o600), "rb", buffering=0))
        self.depth = 0

    def acquire(self) -> bool:
        """Take it, waiting for other processes; whether this process had not got it already."""
        if self.depth == 0:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        self.depth += 1
        return self.depth == 1

    def release(self) -> None:
        """Let go once; the lock is free when that was done as often as it was taken."""
        self.depth -= 1
        if self.depth == 0:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

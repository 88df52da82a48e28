"""One process at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from transom.errors import StoreError

__all__ = ["FolderLock"]


class FolderLock:
    """A lock on a file, which the system lets go of when the process ends, however it ends.

    Notes:
        Counts how often this process took it; threads must take turns by a lock of their own.
    """

    def __init__(self, path: Path, writable: bool) -> None:
        flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
        self._path = path
        self._file = os.open(path, flags, 0o600)
        self._pid = os.getpid()
        self.depth = 0

    def acquire(self) -> bool:
        """Take it, waiting for other processes; whether this process had not got it already."""
        if self.depth == 0:
            if os.getpid() != self._pid:
                raise StoreError(
                    f"{self._path.parent} was opened by process {self._pid}, of which this one is "
                    "a fork; open it again here."
                )
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
        os.close(self._file)

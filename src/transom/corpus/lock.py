"""One writer at a time."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from datetime import datetime
from errno import EACCES, EAGAIN
from importlib import import_module
from pathlib import Path
from types import ModuleType

from transom.errors import CorpusBusyError, CorpusError
from transom.forks import closed_in_forks

__all__ = ["LOCK", "WriterLock"]

LOCK = "writer.lock"


class WriterLock:
    """A lock held from creation until `release`, or until the process ends in any way.

    The file stays; the operating system knows who holds the lock.

    Raises:
        CorpusBusyError: when another writer holds it; the message names that writer.
        CorpusError: when the file cannot be made, or the system has no such locks.
    """

    def __init__(self, folder: Path) -> None:
        self._locks = locks = _locks(folder)
        try:
            self._file = closed_in_forks((folder / LOCK).open("a+b", buffering=0))
        except OSError as error:
            raise CorpusError(f"cannot write to {folder}: {error.strerror}.") from error
        try:
            locks.flock(self._file, locks.LOCK_EX | locks.LOCK_NB)
        except OSError as error:
            if error.errno not in (EACCES, EAGAIN):
                self._file.close()
                raise CorpusError(
                    f"cannot write to {folder}: its lock cannot be taken ({error.strerror}); use "
                    "a file system with the file locks of POSIX."
                ) from error
            self._file.seek(0)
            holder = self._file.read().decode(errors="replace").strip() or "another process"
            self._file.close()
            raise CorpusBusyError(
                f"{folder} is being written to by {holder}; a corpus has one writer at a time, so "
                "wait until it is done."
            ) from error
        try:
            there = os.path.samestat((folder / LOCK).stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            there = False
        if not there:
            self._file.close()
            raise CorpusBusyError(
                f"{folder} was removed by another process at this moment; try again."
            )
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        name = f"process {os.getpid()} on {socket.gethostname()}, since {now}\n"
        with suppress(OSError):  # On a full disk the lock still holds, without a name.
            self._file.truncate(0)
            self._file.write(name.encode())

    def release(self) -> None:
        """Release the lock."""
        if not self._file.closed:  # it is closed in a fork
            self._locks.flock(self._file, self._locks.LOCK_UN)
            self._file.close()


def _locks(folder: Path) -> ModuleType:
    if os.name != "posix":
        raise CorpusError(f"cannot write to {folder}: this needs the file locks of POSIX.")
    return import_module("fcntl")

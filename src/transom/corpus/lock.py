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
    """Held from when it is made until `release`, or until the process ends, however it ends.

    The file stays; the system knows who holds it.

    Raises:
        CorpusBusyError: when another writer holds it, naming it.
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
                    f"cannot write to {folder}: its lock cannot be had ({error.strerror}); this "
                    "needs a file system with the file locks of POSIX."
                ) from error
            self._file.seek(0)
            holder = self._file.read().decode(errors="replace").strip() or "another process"
            self._file.close()
            raise CorpusBusyError(
                f"{folder} is being written to by {holder}; there is one writer at a time, so "
                "wait until it is done."
            ) from error
        try:
            there = os.path.samestat((folder / LOCK).stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            there = False
        if not there:
            self._file.close()
            raise CorpusBusyError(
                f"{folder} was taken away by another process at this moment; try again."
            )
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        name = f"process {os.getpid()} on {socket.gethostname()}, since {now}\n"
        with suppress(OSError):  # On a full disk the lock holds all the same, without a name.
            self._file.truncate(0)
            self._file.write(name.encode())

    def release(self) -> None:
        """Let others write."""
        if not self._file.closed:  # as it is in a fork
            self._locks.flock(self._file, self._locks.LOCK_UN)
            self._file.close()


def _locks(folder: Path) -> ModuleType:
    if os.name != "posix":
        raise CorpusError(f"cannot write to {folder}: this needs the file locks of POSIX.")
    return import_module("fcntl")

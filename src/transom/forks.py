"""Keeps forks of a process from using or damaging what belongs to it: files and locks."""

from __future__ import annotations

import os
from functools import cache
from threading import RLock
from typing import BinaryIO, TypeVar
from weakref import WeakSet

from transom.errors import TransomError

__all__ = ["Owner", "ThreadLock", "closed_in_forks"]

File = TypeVar("File", bound=BinaryIO)

_files: WeakSet[BinaryIO] = WeakSet()  # open files of this process, closed in every fork
_locks: WeakSet[ThreadLock] = WeakSet()


class Owner:
    """The process that opened something which two processes cannot share.

    Call `check` before waiting for a lock: in a fork, the thread that held the lock does not exist
    and can never release it.

    Args:
        what: what was opened, in words for the message.
        error: the type of error to raise.

    >>> from transom.errors import CorpusError
    >>> owner = Owner("the writer of books", CorpusError)
    >>> owner.check()
    """

    def __init__(self, what: str, error: type[TransomError]) -> None:
        self._what = what
        self._error = error
        self._process = os.getpid()

    @property
    def is_here(self) -> bool:
        """Whether the current process is that one, not a fork of it."""
        return os.getpid() == self._process

    def check(self) -> None:
        """Raise an error in a fork.

        Raises:
            TransomError: of type `error`, when this is another process.
        """
        if os.getpid() != self._process:
            raise self._error(
                f"{self._what} belongs to process {self._process}, of which this one, "
                f"{os.getpid()}, is a fork; open another one here, after the fork."
            )


class ThreadLock:
    """A reentrant lock between threads, which is free in a fork.

    In a fork, the thread that held it does not exist and could never release it. What the lock
    guards must therefore be usable in the middle of a change: numbers and references, not files.
    """

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = RLock()
        _register()
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def closed_in_forks(file: File) -> File:
    """Close `file` in every fork made from now on; returns the same file.

    So its buffer is written only once, and a lock on it ends with this process at the latest. To
    release a lock, unlock the file: closing it here is not enough while a new fork has it open.
    """
    _register()
    _files.add(file)
    return file


@cache  # once, and only when there is something to guard
def _register() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_begin_fork)


def _begin_fork() -> None:
    for file in list(_files):
        getattr(file, "raw", file).close()  # without writing the buffer
    _files.clear()
    for lock in list(_locks):
        lock._lock = RLock()

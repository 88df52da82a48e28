"""What belongs to one process, so that a fork of it neither uses nor damages it."""

from __future__ import annotations

import os
from functools import cache
from threading import RLock
from typing import BinaryIO, TypeVar
from weakref import WeakSet

from transom.errors import TransomError

__all__ = ["Owner", "ThreadLock", "closed_in_forks"]

File = TypeVar("File", bound=BinaryIO)

_files: WeakSet[BinaryIO] = WeakSet()  # open files of this process that no fork may touch
_locks: WeakSet[ThreadLock] = WeakSet()


class Owner:
    """The process in which something was opened that two processes cannot share.

    Check it before a lock is waited for: in a fork, a thread that held the lock is not there to
    let go of it.

    Args:
        what: was opened, for the message.
        error: what to raise.

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
        """Whether this is that process, and not a fork of it."""
        return os.getpid() == self._process

    def check(self) -> None:
        """Refuse to go on in a fork.

        Raises:
            TransomError: of type `error`, when this is another process.
        """
        if os.getpid() != self._process:
            raise self._error(
                f"{self._what} belongs to process {self._process}, of which this one, "
                f"{os.getpid()}, is a fork; open another one here, after the fork."
            )


class ThreadLock:
    """A lock between threads, which one may take several times, and which a fork finds free.

    There, the thread that held it is not there to let go of it. What it guards must be of use
    in the middle of any change, so it is for numbers and references, and not for files.
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
    """The same file, which forks made from now on find closed.

    So what waits in its buffer is written once, and a lock on it ends with this process at the
    latest. Let go of a lock by unlocking: closing may come before a new fork has done so.
    """
    _register()
    _files.add(file)
    return file


@cache  # once, and not before there is something to do
def _register() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_begin_fork)


def _begin_fork() -> None:
    for file in list(_files):
        getattr(file, "raw", file).close()  # without what is in the buffer
    _files.clear()
    for lock in list(_locks):
        lock._lock = RLock()

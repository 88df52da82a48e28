"""What belongs to one process, so that a fork of it neither uses nor damages it."""

from __future__ import annotations

import os
from functools import cache
from typing import BinaryIO, TypeVar
from weakref import WeakSet

from transom.errors import TransomError

__all__ = ["Owner", "closed_in_forks"]

File = TypeVar("File", bound=BinaryIO)

_files: WeakSet[BinaryIO] = WeakSet()  # open files of this process that no fork may touch


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


def closed_in_forks(file: File) -> File:
    """The same file, which forks made from now on find closed.

    So what waits in its buffer is written once, and a lock on it ends with this process at the
    latest. Let go of a lock by unlocking: closing may come before a new fork has done so.
    """
    _register()
    _files.add(file)
    return file


@cache  # once, and not before there is a file
def _register() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_close_files)


def _close_files() -> None:
    for file in list(_files):
        getattr(file, "raw", file).close()  # without what is in the buffer
    _files.clear()

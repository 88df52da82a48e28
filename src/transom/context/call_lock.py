"""One call at a time on an object that two threads cannot use at once."""

from __future__ import annotations

import os
from threading import RLock

from transom.errors import CacheError

__all__ = ["CallLock"]


class CallLock:
    """Lets one thread in, and refuses any other meanwhile instead of making it wait.

    The thread inside may enter again. A copy (pickle, deepcopy) is a new lock, and in a fork of
    the process the lock is free: the thread that held it is not there to release it.

    Raises:
        CacheError: on entering, while another thread is inside.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        self._process = os.getpid()

    def __reduce__(self) -> tuple[type[CallLock], tuple[()]]:
        return type(self), ()

    def __enter__(self) -> None:
        if self._process != os.getpid():
            self._lock, self._process = RLock(), os.getpid()
        if not self._lock.acquire(blocking=False):
            raise CacheError(
                "another thread is using this context, which takes one call at a time; nothing was "
                "changed. Wait for the other call to return, or fork() the context beforehand and "
                "give each thread its own fork."
            )

    def __exit__(self, *_: object) -> None:
        self._lock.release()

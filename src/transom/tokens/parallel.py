"""A function over many things, on several threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from transom.errors import InputError
from transom.forks import Owner

__all__ = ["in_order"]

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 2  # things taken per thread before the first one's result is waited for


def in_order(function: Callable[[T], R], things: Iterable[T], workers: int) -> Iterator[R]:
    """What `map` gives, computed by `workers` threads, a few things ahead.

    Gains where the function lets other threads run. With one worker, no thread is started.

    Raises:
        InputError: in a fork, which has neither the threads nor a place of its own in the files
            that things may come from.
    """
    owner = Owner("what goes through files", InputError)
    if workers == 1:
        for thing in things:
            yield function(thing)
            owner.check()
        return
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="transom-tokenize")
    try:
        for thing in things:
            waiting.append(pool.submit(function, thing))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
                owner.check()
        while waiting:
            yield waiting.popleft().result()
            owner.check()
    finally:
        pool.shutdown(cancel_futures=True)

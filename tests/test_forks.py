"""What a parent opened stays the parent's: a fork refuses to use it, and damages nothing."""

from __future__ import annotations

import fcntl
import os
import threading
import warnings
from pathlib import Path

import pytest

from tests.helpers.forking import in_a_fork
from transom.errors import CorpusError
from transom.forks import Owner, ThreadLock, closed_in_forks


def test_an_owner_is_one_process() -> None:
    owner = Owner("the writer of books", CorpusError)
    owner.check()
    assert owner.is_here
    assert in_a_fork(lambda: owner.is_here) is False
    with pytest.raises(CorpusError, match=f"of books belongs to process {os.getpid()}, of which"):
        in_a_fork(owner.check)
    with pytest.raises(CorpusError, match="open another one here"):
        in_a_fork(lambda: in_a_fork(owner.check))


def test_buffered_output_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    file = closed_in_forks(path.open("wb"))
    file.write(b"one\n")
    assert in_a_fork(lambda: (file.closed, file.close())) == (True, None)
    file.write(b"two\n")
    file.close()
    assert path.read_bytes() == b"one\ntwo\n"


def test_a_lock_ends_with_the_process_that_took_it(tmp_path: Path) -> None:
    """Even while a fork of the process lives on."""
    path = tmp_path / "lock"

    def take() -> bool:
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    held = closed_in_forks(path.open("ab", buffering=0))
    fcntl.flock(held, fcntl.LOCK_EX)
    assert in_a_fork(take) is False

    began, begin = os.pipe()
    ended, end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if not child:
        os.write(begin, b"x")
        os.read(ended, 1)
        os._exit(0)
    os.read(began, 1)
    held.close()
    assert take()
    os.write(end, b"x")
    os.waitpid(child, 0)


def test_a_fork_finds_a_lock_free() -> None:
    lock = ThreadLock()
    taken, free = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            free.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()

    def take() -> bool:
        with lock, lock:
            return True

    assert in_a_fork(take)
    free.set()
    thread.join()
    assert take()

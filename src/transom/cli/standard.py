"""Standard input, output and error as they may be, and signals that end the process."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from types import FrameType
from typing import TextIO

__all__ = ["complain", "flush_output", "open_streams", "orderly_end"]

ENDING = ("SIGTERM", "SIGHUP")  # what ends a process; not every system has all


def open_streams() -> None:
    """Let no file that is opened later take the number of a stream that is closed.

    What is printed to a closed standard output is then refused, as by a full disk; what is said on
    a closed standard error is lost. A closed standard input stays None.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is not None:
            continue
        number = os.open(os.devnull, os.O_RDONLY if name == "stdout" else os.O_WRONLY)
        if name != "stdin":
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
    if isinstance(sys.stdout, TextIOWrapper):
        # A file's name may be in no encoding, and the terminal's may not have every letter.
        sys.stdout.reconfigure(errors="backslashreplace")


def flush_output() -> OSError | None:
    """Write what was printed and still waits; gives why it cannot be written, and then it is lost.

    Python would try again at its end, and complain in words of its own.
    """
    for stream in (sys.stderr, sys.stdout):
        try:
            stream.flush()
        except OSError as error:
            _let_go(stream)
            if stream is sys.stdout:
                return error
    return None


def complain(message: str) -> None:
    """Say on standard error why the command ends, where that can still be said."""
    with suppress(OSError):
        print(f"transom: {message}", file=sys.stderr, flush=True)


@contextmanager
def orderly_end() -> Iterator[None]:
    """While open, a request to end is an exit: what is half written is removed on the way out.

    And the terminal is as it was. Requests that are ignored, as under nohup, stay so.
    """
    before = {}
    for name in ENDING:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            before[number] = signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _let_go(stream: TextIO) -> None:
    with suppress(OSError, ValueError):  # It may have no number, as where it is captured.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)

"""Standard input, output and error, in whatever state they are, and signals that end a process."""

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

ENDING = ("SIGTERM", "SIGHUP")  # signals that end a process; not every system has both


def open_streams() -> None:
    """Replace closed streams, so that no file opened later gets the number of one of them.

    Printing to a closed standard output then fails, as on a full disk. What is printed to a closed
    standard error is lost. A closed standard input stays None.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is not None:
            continue
        number = os.open(os.devnull, os.O_RDONLY if name == "stdout" else os.O_WRONLY)
        if name != "stdin":
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
    if isinstance(sys.stdout, TextIOWrapper):
        # A file's name may be invalid text, and the terminal's encoding may lack characters.
        sys.stdout.reconfigure(errors="backslashreplace")


def flush_output() -> OSError | None:
    """Write buffered output. On failure, throw that output away and return the error.

    Otherwise Python would try again when it exits, and print a message of its own.
    """
    for stream in (sys.stderr, sys.stdout):
        try:
            stream.flush()
        except OSError as error:
            _redirect_to_nowhere(stream)
            if stream is sys.stdout:
                return error
    return None


def complain(message: str) -> None:
    """Print an error to standard error, if it can be written to."""
    with suppress(OSError):
        print(f"transom: {message}", file=sys.stderr, flush=True)


@contextmanager
def orderly_end() -> Iterator[None]:
    """While open, signals that end the process raise SystemExit.

    So half-written files are removed and the terminal is restored. A signal that is ignored, as
    under nohup, stays ignored.
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


def _redirect_to_nowhere(stream: TextIO) -> None:
    with suppress(OSError, ValueError):  # A captured stream may have no file descriptor.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)

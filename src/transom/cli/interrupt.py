"""Ctrl-C: as a request to stop at the next good moment, or as the end of a command."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

import typer

from transom.cli.exit_codes import INTERRUPTED

__all__ = ["Interrupt", "all_or_nothing"]


class Interrupt:
    """While open, the first Ctrl-C sets `requested`. A second one raises KeyboardInterrupt.

    Restores the former handler at the end. For the main thread only.

    Args:
        acknowledge: is called on the first Ctrl-C, to show the user that it was noticed.

    Attributes:
        requested: whether Ctrl-C was pressed.
    """

    def __init__(self, acknowledge: Callable[[], None] = lambda: None) -> None:
        self.requested = False
        self._acknowledge = acknowledge

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # None means a handler that was not installed from Python. It cannot be restored.
        signal.signal(signal.SIGINT, signal.SIG_DFL if self._before is None else self._before)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self._acknowledge()


@contextmanager
def all_or_nothing() -> Iterator[None]:
    """Around work that writes its files at the end: Ctrl-C ends the command without them.

    Raises:
        typer.Exit: on Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None

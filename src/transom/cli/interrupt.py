"""Ctrl-C as a request to stop at the next good moment."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

__all__ = ["Interrupt"]


class Interrupt:
    """While open, the first Ctrl-C sets `requested`; a second one aborts at once.

    What Ctrl-C did before is restored at the end. Only for the main thread.

    Args:
        acknowledge: called by the first one, so that it can be seen that it came.
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
        # None stands for a handler that was not installed from Python, which cannot be put back.
        signal.signal(signal.SIGINT, signal.SIG_DFL if self._before is None else self._before)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self._acknowledge()

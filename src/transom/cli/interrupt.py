"""Ctrl-C as a request to stop at the next good moment."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Self

__all__ = ["Interrupt"]


class Interrupt:
    """While open, the first Ctrl-C sets `requested`; a second one aborts at once.

    What Ctrl-C did before is restored at the end. Only for the main thread.
    """

    def __init__(self) -> None:
        self.requested = False

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

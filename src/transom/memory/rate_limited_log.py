"""Log lines that count what happened since the last one, instead of one line each."""

from __future__ import annotations

import logging
import time

__all__ = ["RateLimitedLog"]

PAUSE = 60.0  # seconds between lines


class RateLimitedLog:
    """Logs the first event at once, and later ones together, at most one line per `pause`.

    Args:
        logger: where lines go.
        level: of the lines, such as `logging.WARNING`.
        message: of a line, with a `%d` for how many events there were since the last one; further
            places are filled from what `count` is given.
        pause: seconds between two lines.
    """

    def __init__(
        self, logger: logging.Logger, level: int, message: str, pause: float = PAUSE
    ) -> None:
        self._logger = logger
        self._level = level
        self._message = message
        self._pause = pause
        self._count = 0
        self._next = 0.0

    def count(self, *values: object, events: int = 1) -> None:
        """Count events, and log a line if the last one is long enough ago.

        Args:
            values: for the places of the message after the first.
            events: how many there were.
        """
        self._count += events
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._pause
            self._logger.log(self._level, self._message, self._count, *values)
            self._count = 0

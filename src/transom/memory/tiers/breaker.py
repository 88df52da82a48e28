"""A circuit breaker: a server that does not answer is not asked for a while."""

from __future__ import annotations

import time

__all__ = ["Breaker"]


class Breaker:
    """Opens after `after` failures in a row, and allows one try when a pause is over.

    Each failed try doubles the pause; a success closes the breaker.

    Args:
        after: failures in a row.
        pause: seconds of the first pause.
        longest: most seconds of a pause.

    Attributes:
        failures: how many tries failed in all.
        skipped: how many tries were not allowed.

    >>> breaker = Breaker(after=2, pause=60.0, longest=600.0)
    >>> breaker.failed(); breaker.allows()
    True
    >>> breaker.failed(); breaker.allows(), breaker.open
    (False, True)
    """

    def __init__(self, after: int = 3, pause: float = 0.5, longest: float = 30.0) -> None:
        self.failures = 0
        self.skipped = 0
        self._after = after
        self._first = pause
        self._longest = longest
        self._row = 0
        self._pause = pause
        self._until = 0.0

    @property
    def open(self) -> bool:
        """Whether the server is left alone."""
        return self._row >= self._after

    def allows(self) -> bool:
        """Whether to try now; a try that is not allowed is counted."""
        if self.open and time.monotonic() < self._until:
            self.skipped += 1
            return False
        return True

    def failed(self) -> None:
        """A try failed."""
        self.failures += 1
        self._row += 1
        if self.open:
            self._until = time.monotonic() + self._pause
            self._pause = min(self._longest, 2 * self._pause)

    def succeeded(self) -> None:
        """A try succeeded."""
        self._row = 0
        self._pause = self._first

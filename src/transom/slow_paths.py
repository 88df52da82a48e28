"""What an operator should know: a slow path was taken, and why."""

from __future__ import annotations

import logging
from threading import Lock

__all__ = ["log_slow_path"]

_logged: set[tuple[str, str]] = set()
_lock = Lock()


def log_slow_path(room: str, reason: str) -> None:
    """Log at level INFO that a slow path was taken; once per reason and process.

    A forward pass may come a hundred times a second, and a line for each would bury all others.

    Args:
        room: where the path is; the logger is `transom.` and this.
        reason: a sentence or two: why, and what to do about it.
    """
    if (room, reason) in _logged:
        return
    with _lock:
        if (room, reason) in _logged:
            return
        _logged.add((room, reason))
    logging.getLogger(f"transom.{room}").info("Slow path: %s", reason)

"""What an operator should know: a cache takes a slow path, and why."""

from __future__ import annotations

import logging
from threading import Lock

__all__ = ["log_slow_path"]

_logger = logging.getLogger("transom.kv")
_logged: set[str] = set()
_lock = Lock()


def log_slow_path(reason: str) -> None:
    """Log at level INFO that a slow path was chosen; once per reason and process.

    Passes come thousands of times a second, so a line for each would bury everything else.
    """
    with _lock:
        if reason in _logged:
            return
        _logged.add(reason)
    _logger.info("Slow path: %s", reason)

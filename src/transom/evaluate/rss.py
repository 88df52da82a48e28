"""Peak resident set size: the most physical memory the process held, in bytes."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

__all__ = ["peak_rss", "reset_peak_rss"]

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_HIGH_WATER_MARK = "5"


def reset_peak_rss() -> bool:
    """Start a new peak at the memory held now; returns whether that was possible.

    Only Linux can do this, and not in every sandbox. Elsewhere the peak is that of the whole
    process, so a later run never shows less than an earlier one.
    """
    gc.collect()  # garbage of an earlier run does not count for this one
    try:
        CLEAR_REFS.write_text(RESET_HIGH_WATER_MARK)
    except OSError:
        return False
    return True


def peak_rss() -> int | None:
    """The peak since the last reset, in bytes; None on Windows, where it is unknown."""
    try:
        status = STATUS.read_text()
    except OSError:
        return _process_peak()
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return _process_peak()


def _process_peak() -> int | None:
    try:
        import resource
    except ModuleNotFoundError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

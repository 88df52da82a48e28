"""How much of what is random: a little each time, much with `make soak`."""

from __future__ import annotations

import os

__all__ = ["scaled"]


def scaled(small: int, large: int) -> int:
    """`large` where TRANSOM_SOAK is set."""
    return large if os.environ.get("TRANSOM_SOAK") else small

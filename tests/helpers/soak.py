"""The amount of random testing: little in a normal run, much under `make soak`."""

from __future__ import annotations

import os

__all__ = ["scaled"]


def scaled(small: int, large: int) -> int:
    """Choose `large` if TRANSOM_SOAK is set, else `small`."""
    return large if os.environ.get("TRANSOM_SOAK") else small

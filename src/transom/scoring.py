"""Deprecated: `transom.context.scoring` under its former name."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

_MOVED = ("by_windows", "losses")


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"transom.scoring.{name} is now transom.context.scoring.{name}; import it from there.",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(import_module("transom.context.scoring"), name)

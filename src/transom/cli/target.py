"""Files to write, checked before the work whose result they are for."""

from __future__ import annotations

import os
from pathlib import Path

from transom.errors import InputError

__all__ = ["check_target"]


def check_target(path: Path | None) -> None:
    """Refuse now what could not be written after a long reading.

    Raises:
        InputError: when the path is a folder, or its folder is not open to writing.
    """
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected the name of a file to write.")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"cannot write {path}: {path.parent} is not a folder open to writing.")

"""Folders of the cache that are whole if they are there at all."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from transom.models.packaged import cache_folder

__all__ = ["publish", "scratch", "sweep"]

_DAY = 24 * 60 * 60


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """A temporary folder in the cache folder, so that a rename can publish what it holds.

    It is removed at the end, also after an error or an interrupt.

    Args:
        name: of what is made in it; `sweep` finds the folders of killed processes by it.

    Raises:
        OSError: when the cache folder cannot be made or written to.
    """
    cache_folder().mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(
        prefix=f".{name}-", dir=cache_folder(), ignore_cleanup_errors=True
    ) as path:
        yield Path(path)


def sweep(name: str) -> None:
    """Remove the scratch folders of killed processes: those too old to be in use."""
    for folder in cache_folder().glob(f".{name}-*"):
        with suppress(OSError):  # Another process may sweep it at the same time.
            if time.time() - folder.stat().st_mtime > _DAY:
                shutil.rmtree(folder, ignore_errors=True)


def publish(made: Path, folder: Path) -> None:
    """Rename the whole folder `made` to `folder`, unless another process came first.

    Raises:
        OSError: when it cannot be renamed, and there is no `folder`.
    """
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        # Another process came first; its copy is the same.

"""Files that are there whole, also after a crash, or are as they were."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EINVAL, EISDIR
from pathlib import Path
from typing import BinaryIO

__all__ = ["atomic_write", "publish", "sync_folder"]

STANDARD = (1, 2)  # descriptors of standard output and of what is told beside it


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` once it is complete, and is on disk then.

    Links are followed, and permissions kept. What is there and is no regular file, such as a pipe,
    is written to where it is, and so is standard output under any name.

    Raises:
        OSError: when it cannot be written; a regular file that was there is unchanged.
    """
    if path.exists() and ((own := _standard(path)) is not None or not path.is_file()):
        with _in_place(path, own) as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        publish(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(target.parent)


def publish(made: Path, path: Path) -> None:
    """Move a file to where `path` leads; one that is there is replaced and its permissions kept.

    Raises:
        OSError: when something else is there, or it cannot be written.
    """
    target = Path(os.path.realpath(path))
    if target.exists():
        if not target.is_file():
            raise OSError(EINVAL, "what is there is no regular file", str(target))
        if not os.access(target, os.W_OK):
            raise PermissionError(EACCES, os.strerror(EACCES), str(target))
        shutil.copymode(target, made)
    os.replace(made, target)


def sync_folder(folder: Path) -> None:
    """Make sure that names of files last; only where a system lets folders be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _in_place(path: Path, own: int | None) -> Iterator[BinaryIO]:
    if path.is_dir():
        raise IsADirectoryError(EISDIR, os.strerror(EISDIR), str(path))
    if own is not None and sys.stdout is not None:
        sys.stdout.flush()  # what was printed before comes first
    with os.fdopen(os.dup(own), "wb") if own is not None else path.open("wb") as file:
        yield file


def _standard(path: Path) -> int | None:
    """Which of this process' own outputs `path` leads to, such as /dev/stdout.

    Opening it anew would cut a file off that other output goes to, and renaming take it away.
    """
    found = path.stat()
    for descriptor in STANDARD:
        try:
            if os.path.samestat(found, os.fstat(descriptor)):
                return descriptor
        except OSError:  # It is closed.
            continue
    return None

"""Writes files atomically: after a crash, a file is either complete or unchanged."""

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

STANDARD = (1, 2)  # file descriptors of standard output and standard error


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A file that replaces `path` once it is complete and on disk.

    Links are followed, and permissions kept. Something that is not a regular file, such as a pipe,
    is written to in place; so is standard output under any name.

    Raises:
        OSError: when it cannot be written; a regular file at `path` is unchanged then.
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
    """Move the file `made` to where `path` leads; a file there is replaced, its permissions kept.

    Raises:
        OSError: when there is something that is not a regular file, or it cannot be written.
    """
    target = Path(os.path.realpath(path))
    if target.exists():
        if not target.is_file():
            raise OSError(EINVAL, "there is something that is not a regular file", str(target))
        if not os.access(target, os.W_OK):
            raise PermissionError(EACCES, os.strerror(EACCES), str(target))
        shutil.copymode(target, made)
    os.replace(made, target)


def sync_folder(folder: Path) -> None:
    """Make renamed and new files in a folder last through a crash; does nothing outside POSIX."""
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
        sys.stdout.flush()  # what was printed before must come first
    with os.fdopen(os.dup(own), "wb") if own is not None else path.open("wb") as file:
        yield file


def _standard(path: Path) -> int | None:
    """The descriptor of this process' own output that `path` leads to, such as /dev/stdout.

    Opening that path anew would truncate the file that the output goes to, and renaming would
    replace it.
    """
    found = path.stat()
    for descriptor in STANDARD:
        try:
            if os.path.samestat(found, os.fstat(descriptor)):
                return descriptor
        except OSError:  # The descriptor is closed.
            continue
    return None

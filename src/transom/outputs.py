"""Files that a user names to be written: checked before the work, and whole after it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from transom.atomic_files import atomic_write
from transom.errors import InputError

__all__ = ["check_picture", "check_target", "output", "save_picture", "write_text"]

PICTURE = ".png"


def check_target(path: Path | None, *others: Path | str | None) -> None:
    """Refuse now what could not be written after a long reading; None is nothing to write.

    Args:
        others: files that are read or written beside it.

    Raises:
        InputError: when the path is a folder, one of the others, or cannot be written.
    """
    if path is None:
        return
    if any(other is not None and _same(path, other) for other in others):
        raise InputError(
            f"{path} is given twice, and what is written would replace the other; expected "
            "another name."
        )
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; expected the name of a file to write.")
        if path.exists():
            if not os.access(path, os.W_OK):
                raise InputError(f"cannot write {path}: it is not open to writing.")
            if not path.is_file():
                return
    except OSError as error:
        raise _unwritable(path, error) from error
    folder = Path(os.path.realpath(path)).parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {folder} is not a folder open to writing "
            f"({error.strerror or error})."
        ) from error


def check_picture(path: Path | None, *others: Path | str | None) -> None:
    """As `check_target`, for a picture.

    Raises:
        InputError: also when the name says that it is of another kind than PNG.
    """
    if path is not None and path.suffix.lower() not in ("", PICTURE):
        raise InputError(
            f"{path} ends in {path.suffix!r}, and pictures are written as PNG; expected a name "
            f"that ends in {PICTURE}."
        )
    check_target(path, *others)


@contextmanager
def output(path: Path | str) -> Iterator[BinaryIO]:
    """A file that is at `path` once it is complete; see `transom.atomic_files.atomic_write`.

    Raises:
        InputError: when it cannot be written; a regular file that was there is unchanged.
    """
    try:
        with atomic_write(Path(path)) as file:
            yield file
    except OSError as error:
        raise _unwritable(path, error) from error


def write_text(path: Path | str, text: str) -> None:
    """Write a text so that a reader never sees half of it; raises as `output` does."""
    with output(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))  # A file's name in it may be no UTF-8.


def save_picture(figure: Any, path: Path | str) -> None:
    """Save a figure of matplotlib as PNG.

    Raises:
        InputError: see `check_picture`.
    """
    check_picture(Path(path))
    with output(path) as file:
        figure.savefig(file, format="png")


def _same(path: Path, other: Path | str) -> bool:
    """Whether both lead to one file, which need not be there yet; devices and pipes may be."""
    try:
        if os.path.exists(path):
            return path.is_file() and os.path.samefile(path, other)
        return os.path.realpath(path) == os.path.realpath(other)
    except OSError:  # The other is not there, or cannot be looked at.
        return False


def _unwritable(path: Path | str, error: OSError) -> InputError:
    return InputError(f"cannot write {path}: {error.strerror or error}.")

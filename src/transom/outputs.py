"""Files that a user names for output: checked before the work, written atomically after it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, Protocol

from transom.atomic_files import atomic_write
from transom.errors import InputError

__all__ = ["check_picture", "check_target", "output", "save_picture", "write_text"]

PICTURE = ".png"


class Figure(Protocol):
    """A figure of matplotlib."""

    def savefig(self, file: IO[bytes], /, *, format: str) -> None:
        """Write the figure to a file."""


def check_target(path: Path | None, *others: Path | str | None) -> None:
    """Check now that `path` can be written after long work; None is accepted.

    Args:
        path: the file to write.
        others: other files that are read or written.

    Raises:
        InputError: when the path is a folder, is one of `others`, or cannot be written.
    """
    if path is None:
        return
    if any(other is not None and _same(path, other) for other in others):
        raise InputError(
            f"{path} is given twice, so this file would replace the other; expected another name."
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
        InputError: also when the suffix is not that of PNG.
    """
    if path is not None and path.suffix.lower() not in ("", PICTURE):
        raise InputError(
            f"{path} ends in {path.suffix!r}, and pictures are written as PNG; expected a name "
            f"that ends in {PICTURE}."
        )
    check_target(path, *others)


@contextmanager
def output(path: Path | str) -> Iterator[BinaryIO]:
    """A file that appears at `path` once it is complete; see `transom.atomic_files.atomic_write`.

    Raises:
        InputError: when it cannot be written; a regular file at `path` is unchanged then.
    """
    try:
        with atomic_write(Path(path)) as file:
            yield file
    except OSError as error:
        raise _unwritable(path, error) from error


def write_text(path: Path | str, text: str) -> None:
    """Write a text atomically; raises as `output` does."""
    with output(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))  # A file name in it may not be UTF-8.


def save_picture(figure: Figure, path: Path | str) -> None:
    """Save a figure as PNG.

    Raises:
        InputError: see `check_picture`.
    """
    check_picture(Path(path))
    with output(path) as file:
        figure.savefig(file, format="png")


def _same(path: Path, other: Path | str) -> bool:
    """Whether both paths lead to one regular file, which need not exist yet."""
    try:
        if os.path.exists(path):
            return path.is_file() and os.path.samefile(path, other)
        return os.path.realpath(path) == os.path.realpath(other)
    except OSError:  # `other` does not exist, or may not be looked at.
        return False


def _unwritable(path: Path | str, error: OSError) -> InputError:
    return InputError(f"cannot write {path}: {error.strerror or error}.")

"""Paths that a user gave."""

from __future__ import annotations

import os
from pathlib import Path

from transom.errors import InputError

__all__ = ["given_folder", "named_path"]


def named_path(what: str, path: str | os.PathLike[str], expected: str = "a file") -> Path:
    """`path` as one, when something can be called that; the current folder is called `.`.

    Raises:
        InputError: when it is empty, which `Path` takes for the current folder, or has a zero
            character in it.
    """
    name = os.fsdecode(path)
    if not name or "\0" in name:
        raise InputError(f"{what} is {name!r:.80}; expected the name of {expected}.")
    return Path(name)


def given_folder(owner: str, name: str, value: object) -> Path:
    """`value` as the path of a folder, with `~` as the home of the user.

    Raises:
        InputError: when it is no path, or names nothing.
    """
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        raise InputError(
            f"{owner}: {name} is {value!r} ({type(value).__name__}); expected the path of a folder."
        )
    text = os.fspath(value)
    if not text.strip() or "\0" in text:
        raise InputError(
            f"{owner}: {name} is {text!r}; expected the path of a folder, such as 'contexts'."
        )
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(
            f"{owner}: {name} is {text!r}, and there is no such home ({error}); expected the path "
            "of a folder."
        ) from error

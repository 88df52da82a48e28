"""Checks of parameters, worded alike wherever they are made."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from transom.errors import InputError, TransomError

__all__ = ["check_keywords", "given_folder", "known_keywords", "named_path", "whole_number"]

CallT = TypeVar("CallT", bound=Callable[..., Any])


def check_keywords(
    owner: str, given: Any, known: Any, *, error: type[TransomError] = InputError
) -> None:
    """Refuse names that are not known, with the nearest one that is.

    Raises:
        TransomError: of type `error`.
    """
    known = list(known)
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else "."
            raise error(f"{owner} has no parameter {name!r}{meant} It takes {', '.join(known)}.")


def known_keywords(call: CallT) -> CallT:
    """The same call, which refuses a misspelt keyword by an error of transom's own."""
    known = [name for name in inspect.signature(call).parameters if name != "self"]
    owner = call.__qualname__.removesuffix(".__init__")

    @wraps(call)
    def checked(*args: Any, **kwargs: Any) -> Any:
        check_keywords(owner, kwargs, known)
        return call(*args, **kwargs)

    return cast("CallT", checked)


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


def given_folder(owner: str, name: str, value: Any) -> Path:
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


def whole_number(
    owner: str,
    name: str,
    value: Any,
    minimum: int,
    *,
    unit: str = "tokens",
    error: type[TransomError] = InputError,
) -> int:
    """`value` as an int, when it is a whole number of at least `minimum`.

    Raises:
        TransomError: of type `error`, naming the owner, the parameter, what came and what was
            expected.

    >>> whole_number("SlidingWindow", "stride", 4, minimum=1)
    4
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise error(
            f"{owner}: {name} is {value!r} ({type(value).__name__}); "
            f"expected a whole number of {unit}, at least {minimum}."
        )
    if value < minimum:
        raise error(f"{owner}: {name} is {value}; expected at least {minimum}.")
    return int(value)

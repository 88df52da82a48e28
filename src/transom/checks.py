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

# Below what 64 bits hold, with room for sums: numpy and torch would raise errors of their own, or
# count on from the other end.
MOST = 2**62

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
    """The same call, which refuses a misspelt keyword by an error of transom's own.

    Of a class, that is making one and every public method in its body; but those that it has from
    another library are for that library to call.
    """
    if isinstance(call, type):
        for name, member in list(vars(call).items()):
            if name != "__init__" and (name.startswith("_") or _is_foreign(call, name)):
                continue
            if isinstance(member, (classmethod, staticmethod)):
                setattr(call, name, type(member)(_checked(member.__func__)))
            elif inspect.isfunction(member):
                setattr(call, name, _checked(member))
        return call
    return cast("CallT", _checked(call))


def _checked(call: Callable[..., Any]) -> Callable[..., Any]:
    parameters = inspect.signature(call).parameters.values()
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        return call
    known = [one.name for one in parameters if one.name not in ("self", "cls")]
    owner = call.__qualname__.removesuffix(".__init__")

    @wraps(call)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            check_keywords(owner, kwargs, known)
        return call(*args, **kwargs)

    return checked


def _is_foreign(owner: type, name: str) -> bool:
    ours = owner.__module__.partition(".")[0]
    return any(
        name in vars(base) and base.__module__.partition(".")[0] != ours for base in owner.__mro__
    )


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
    minimum: int | None = None,
    *,
    unit: str = "tokens",
    error: type[TransomError] = InputError,
    maximum: int = MOST,
) -> int:
    """`value` as an int, when it is a whole number from `minimum`, if there is one, to `maximum`.

    Raises:
        TransomError: of type `error`, naming the owner, the parameter, what came and what was
            expected.

    >>> whole_number("SlidingWindow", "stride", 4, minimum=1)
    4
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        least = "" if minimum is None else f", at least {minimum}"
        raise error(
            f"{owner}: {name} is {value!r} ({type(value).__name__}); "
            f"expected a whole number of {unit}{least}."
        )
    if minimum is not None and value < minimum:
        raise error(f"{owner}: {name} is {value}; expected at least {minimum}.")
    if value > maximum:
        raise error(f"{owner}: {name} is {value}; expected at most {maximum:,}.")
    return int(value)

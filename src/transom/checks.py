"""Checks of parameters, worded alike wherever they are made."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np

from transom.errors import InputError, TransomError

__all__ = ["check_keywords", "known_keywords", "whole_number"]

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
    """The same call, which refuses a misspelt keyword by an error of transom's own."""
    known = [name for name in inspect.signature(call).parameters if name != "self"]
    owner = call.__qualname__.removesuffix(".__init__")

    @wraps(call)
    def checked(*args: Any, **kwargs: Any) -> Any:
        check_keywords(owner, kwargs, known)
        return call(*args, **kwargs)

    return cast("CallT", checked)


def whole_number(
    owner: str,
    name: str,
    value: Any,
    minimum: int,
    *,
    unit: str = "tokens",
    error: type[TransomError] = InputError,
    maximum: int = MOST,
) -> int:
    """`value` as an int, when it is a whole number of at least `minimum` and at most `maximum`.

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
    if value > maximum:
        raise error(f"{owner}: {name} is {value}; expected at most {maximum:,}.")
    return int(value)

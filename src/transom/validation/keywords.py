"""Names of parameters: a misspelt one is refused, with the nearest one that exists."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from functools import wraps
from typing import Any, TypeVar, cast

from transom.errors import InputError, TransomError

__all__ = ["check_keywords", "known_keywords"]

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

"""Checks of parameter names: a misspelt one is refused, with the nearest known one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from typing import TypeVar, cast

from transom.errors import InputError, TransomError

__all__ = ["check_keywords", "known_keywords"]

CallT = TypeVar("CallT", bound=Callable[..., object])


def check_keywords(
    owner: str,
    given: Iterable[str],
    known: Iterable[str],
    *,
    error: type[TransomError] = InputError,
) -> None:
    """Refuse unknown parameter names, suggesting the nearest known one.

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
    """A decorator that refuses a misspelt keyword with an error from `transom.errors`.

    For a class, it covers the constructor and every public method in the class body, except
    methods that override those of another library: that library calls them.
    """
    if isinstance(call, type):
        for name, member in list(vars(call).items()):
            if name != "__init__" and (name.startswith("_") or _is_foreign(call, name)):
                continue
            if isinstance(member, (classmethod, staticmethod)):
                bound = isinstance(member, classmethod)
                setattr(call, name, type(member)(_checked(member.__func__, bound=bound)))
            elif inspect.isfunction(member):
                setattr(call, name, _checked(member, bound=True))
        return call
    return cast("CallT", _checked(call))


def _checked(call: Callable[..., object], *, bound: bool = False) -> Callable[..., object]:
    """`call` with the check; `bound` where its first argument is an object or a class."""
    parameters = inspect.signature(call).parameters.values()
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        return call
    known = [one.name for one in parameters if one.name not in ("self", "cls")]

    @wraps(call)
    def checked(*args: object, **kwargs: object) -> object:
        if kwargs:
            owner = args[0] if bound and args else None
            check_keywords(_name(call, owner), kwargs, known)
        return call(*args, **kwargs)

    return checked


def _name(call: Callable[..., object], owner: object) -> str:
    """A call as its caller knows it: an inherited method belongs to the class of the object."""
    if owner is None:
        return call.__qualname__.removesuffix(".__init__")
    kind = owner if isinstance(owner, type) else type(owner)
    return f"{kind.__name__}.{call.__name__}".removesuffix(".__init__")


def _is_foreign(owner: type, name: str) -> bool:
    ours = owner.__module__.partition(".")[0]
    return any(
        name in vars(base) and base.__module__.partition(".")[0] != ours for base in owner.__mro__
    )

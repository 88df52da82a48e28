"""Timing the calls of one object, and of no other of its class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from operator import call
from time import perf_counter
from types import new_class
from typing import Any, SupportsIndex

from transom.errors import InputError
from transom.monitor.series import Series

__all__ = ["unwatch", "watch"]


def watch(source: Any, calls: Mapping[str, Series]) -> None:
    """Have methods of `source` record how many seconds each call takes.

    The object gets a class of its own, derived from the one it has, in which these methods are
    timed. It looks and compares like before; copies and pickles of it have the former class.

    Raises:
        InputError: when the object cannot get another class; it is as it was.
    """
    base: Any = type(source)
    own: dict[str, Any] = {
        "__slots__": (),
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": _reduced,
        "_watched": True,
    }
    if base.__eq__ is not object.__eq__:
        own["__eq__"] = lambda self, other: _plain(self) == _plain(other)
        own["__hash__"] = base.__hash__
    for name, series in calls.items():
        own[name] = _timed(getattr(base, name), series)
    try:
        vars(source)  # what `_plain` needs
        source.__class__ = new_class(
            base.__name__, (base,), exec_body=lambda body: body.update(own)
        )
    except TypeError as error:
        raise InputError(
            f"the calls of a {base.__name__} cannot be timed ({error}); attach it with timed=False."
        ) from None


def unwatch(source: Any) -> None:
    """Give `source` its former class back."""
    if _is_watched(source):
        source.__class__ = type(source).__base__


def _reduced(self: Any, protocol: SupportsIndex) -> Any:
    reduced = _plain(self).__reduce_ex__(protocol)
    if isinstance(reduced, str):
        return reduced
    make, arguments, *rest = reduced
    return (call, (make, *arguments), *rest)  # pickle insists on the class with `make` itself


def _timed(method: Callable[..., Any], series: Series) -> Callable[..., Any]:
    record = series.record

    @wraps(method)
    def timed(*args: Any, **kwargs: Any) -> Any:
        began = perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            record(perf_counter() - began)

    return timed


def _is_watched(source: Any) -> bool:
    return "_watched" in vars(type(source))


def _plain(source: Any) -> Any:
    """An object of the former class with the very same attributes."""
    if not _is_watched(source):
        return source
    former: Any = type(source).__base__
    plain = former.__new__(former)
    plain.__dict__ = source.__dict__
    return plain

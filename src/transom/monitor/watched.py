"""Timing the calls of one object, and of no other of its class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps
from operator import call
from time import perf_counter
from types import new_class
from typing import SupportsIndex

from transom.errors import InputError
from transom.forks import ThreadLock
from transom.monitor.series import Series

__all__ = ["unwatch", "watch"]

OWN = "_transom_watchers"  # attribute of the classes that `watch` makes


def watch(source: object, calls: Mapping[str, Series]) -> None:
    """Have methods of `source` record how many seconds each call takes.

    The object gets a subclass of its class, in which these methods are timed. It looks and
    compares as before; copies and pickles of it have the original class. Several watchers may
    share one object; each call is timed once for all of them.

    Raises:
        InputError: when the object cannot get another class; it is not changed then.
    """
    with _lock():
        _be_watched_by(source, (*_watchers(source), calls))


def unwatch(source: object, calls: Mapping[str, Series]) -> None:
    """Stop recording to `calls`; without other watchers, `source` gets its original class back."""
    with _lock():
        watchers = _watchers(source)
        kept = tuple(one for one in watchers if one is not calls)
        if len(kept) < len(watchers):
            _be_watched_by(source, kept)


@cache
def _lock() -> ThreadLock:
    """One lock for all monitors: two of them may share an object."""
    return ThreadLock()


def _be_watched_by(source: object, watchers: tuple[Mapping[str, Series], ...]) -> None:
    base = _former(source)
    if not watchers:
        source.__class__ = base
        return
    own: dict[str, object] = {
        "__slots__": (),
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": _reduced,
        OWN: watchers,
    }
    if base.__eq__ is not object.__eq__:
        own["__eq__"] = lambda self, other: _plain(self) == _plain(other)
        own["__hash__"] = base.__hash__
    for name in {name for calls in watchers for name in calls}:
        series = [calls[name] for calls in watchers if name in calls]
        own[name] = _timed(getattr(base, name), series)
    try:
        vars(source)  # `_plain` needs a `__dict__`
        source.__class__ = new_class(
            base.__name__, (base,), exec_body=lambda body: body.update(own)
        )
    except TypeError as error:
        raise InputError(
            f"the calls of a {base.__name__} cannot be timed ({error}); attach it with timed=False."
        ) from None


def _reduced(self: object, protocol: SupportsIndex) -> str | tuple[object, ...]:
    reduced = _plain(self).__reduce_ex__(protocol)
    if isinstance(reduced, str):
        return reduced
    make, arguments, *rest = reduced
    return (
        call,
        (make, *arguments),
        *rest,
    )  # Pickle accepts `make` only with the very class of the object.


def _timed(method: Callable[..., object], series: Sequence[Series]) -> Callable[..., object]:
    records = [one.record for one in series]

    @wraps(method)
    def timed(*args: object, **kwargs: object) -> object:
        began = perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            seconds = perf_counter() - began
            for record in records:
                record(seconds)

    return timed


def _watchers(source: object) -> tuple[Mapping[str, Series], ...]:
    """The series that the calls of `source` record to, for each watcher."""
    found: tuple[Mapping[str, Series], ...] = vars(type(source)).get(OWN, ())
    return found


def _former(source: object) -> type[object]:
    """The class of an object without watchers."""
    return type(source).__mro__[1] if _watchers(source) else type(source)


def _plain(source: object) -> object:
    """An object of the original class that shares the attributes of `source`."""
    if not _watchers(source):
        return source
    former = _former(source)
    plain = former.__new__(former)
    plain.__dict__ = source.__dict__
    return plain

"""Classes by name: those of transom, then those that installed packages register."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from inspect import isabstract
from pkgutil import iter_modules
from types import MappingProxyType
from typing import Any, TypeVar

from transom.errors import TransomError

__all__ = ["defined_in", "plugins"]

T = TypeVar("T")


def plugins(
    group: str, base: type, built_in: Iterable[type[T]], error: type[TransomError]
) -> Mapping[str, type[T]]:
    """Classes by their `name`: `built_in`, then the entry points of `group`.

    Raises:
        TransomError: of type `error`, when two classes have the same name, one has none, or an
            entry point is not a subclass of `base`.
    """
    found: dict[str, type[T]] = {}
    for source, kind in _all_of(group, base, built_in, error):
        name = getattr(kind, "name", None)
        if not (isinstance(name, str) and name):
            raise error(f"{source} has the name {name!r}; expected text, as in name = 'window'.")
        if name in found:
            raise error(
                f"{source} registers {name!r}, which {found[name].__module__} already defines; "
                "rename one of them."
            )
        found[name] = kind
    return MappingProxyType(found)


def defined_in(package: str, base: type) -> list[Any]:
    """The public subclasses of `base` that the modules of a package define, in order of module.

    Abstract classes are left out.
    """
    found = []
    for item in iter_modules(import_module(package).__path__, f"{package}."):
        for name, kind in vars(import_module(item.name)).items():
            own = isinstance(kind, type) and kind.__module__ == item.name
            if own and issubclass(kind, base) and not isabstract(kind) and name[0] != "_":
                found.append(kind)
    return found


def _all_of(
    group: str, base: type, built_in: Iterable[type[T]], error: type[TransomError]
) -> Iterator[tuple[str, type[T]]]:
    """Each class, with where it comes from in words for an error."""
    for kind in built_in:
        yield f"{kind.__module__}.{kind.__name__}", kind
    for entry in entry_points(group=group):
        source, kind = f"entry point {entry.name!r} ({entry.value})", entry.load()
        if not (isinstance(kind, type) and issubclass(kind, base)):
            raise error(
                f"{source} is {kind!r}; expected a subclass of {base.__module__}.{base.__name__}."
            )
        yield source, kind

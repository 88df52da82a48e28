"""Names to classes: transom's own, then those that installed packages register."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any, TypeVar

from transom.errors import TransomError

__all__ = ["plugins"]

T = TypeVar("T")


def plugins(
    group: str, base: Any, built_in: Iterable[type[T]], error: type[TransomError]
) -> Mapping[str, type[T]]:
    """Classes by their `name`: `built_in`, then the entry points of `group`.

    Raises:
        TransomError: of type `error`, when two classes claim one name, or an entry point is not a
            subclass of `base`.
    """
    found: dict[str, type[T]] = {_name(kind): kind for kind in built_in}
    for entry in entry_points(group=group):
        kind = entry.load()
        if not (isinstance(kind, type) and issubclass(kind, base)):
            raise error(
                f"entry point {entry.name!r} ({entry.value}) is {kind!r}; "
                f"expected a subclass of {base.__module__}.{base.__name__}."
            )
        name = _name(kind)
        if name in found:
            raise error(
                f"entry point {entry.name!r} ({entry.value}) registers {name!r}, "
                f"which {found[name].__module__} already defines; rename one of them."
            )
        found[name] = kind
    return MappingProxyType(found)


def _name(kind: Any) -> str:
    name: str = kind.name
    return name

"""The numbers of windows, contexts, corpora and managers, told apart by their attributes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any, NamedTuple

from transom.errors import InputError

__all__ = ["Reading", "readings", "timed_calls"]

# Numbers returned by `stats()` that only grow.
COUNTED = ("hits", "misses", "refused", "expired", "evicted", "corrupt")
# Methods to time, on any object that has them.
TIMED = ("add_tokens", "append", "score", "add_context", "get_context", "extend", "longest_prefix")


class Reading(NamedTuple):
    """A number at this moment.

    Attributes:
        name: of the metric.
        value: the number, of whatever type it has.
        counted: whether it only grows, such as the number of dropped tokens.
        labels: which of several things of that name it describes.
    """

    name: str
    value: Real | float
    counted: bool = False
    labels: tuple[tuple[str, str], ...] = ()


def readings(source: Any) -> list[Reading]:
    """All numbers of `source`, which is not changed.

    It has `stats()` (a memory manager), `usage` (a `Context`), `seen`, `dropped` and `nbytes` (a
    token window), or `tokens`, `documents` and `nbytes` (a corpus).

    Raises:
        InputError: when it has none of these.
    """
    if callable(getattr(source, "stats", None)):
        return list(_flat(source.stats()))
    if hasattr(source, "usage"):
        usage = source.usage
        return _window(usage.kept, usage.kv_bytes, usage.seen, usage.dropped)
    if all(hasattr(source, name) for name in ("seen", "dropped", "nbytes", "__len__")):
        return _window(len(source), source.nbytes, source.seen, source.dropped)
    if all(hasattr(source, name) for name in ("tokens", "documents", "nbytes")):
        return [
            Reading("corpus_tokens", source.tokens),
            Reading("corpus_documents", source.documents),
            Reading("corpus_bytes", source.nbytes),
        ]
    raise InputError(
        f"{type(source).__name__} cannot be attached; expected a token window, a Context, a corpus "
        "or a memory manager, or anything that has stats()."
    )


def timed_calls(source: object) -> list[str]:
    """The names of the methods of `source` to time."""
    return [name for name in TIMED if callable(getattr(source, name, None))]


def _window(kept: int, size: int, seen: int, dropped: int) -> list[Reading]:
    return [
        Reading("window_size", kept),
        Reading("memory_usage", size),
        Reading("tokens_seen", seen, counted=True),
        Reading("tokens_dropped", dropped, counted=True),
    ]


def _flat(
    stats: Any, prefix: str = "", labels: tuple[tuple[str, str], ...] = ()
) -> Iterator[Reading]:
    """The numbers of a named tuple or mapping, and of named parts in its lists."""
    fields = stats if isinstance(stats, Mapping) else stats._asdict()
    for name, value in fields.items():
        if isinstance(value, Real):
            known = "memory_usage" if name == "bytes" and not prefix else prefix + name
            yield Reading(known, value, name in COUNTED, labels)
        elif isinstance(value, tuple | list):
            one = name.removesuffix("s")
            for part in value:
                if hasattr(part, "_asdict") and hasattr(part, "name"):
                    yield from _flat(part, f"{one}_", (*labels, (one, str(part.name))))

"""Names of metrics and labels: keys, and which names are allowed."""

from __future__ import annotations

import re
from collections.abc import Iterable

from transom.errors import InputError

__all__ = ["Key", "Labels", "key_of", "named"]

Labels = tuple[tuple[str, str], ...]
Key = tuple[str, Labels]

NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
RESERVED = "quantile"  # the label of the quantiles of a Prometheus summary


def key_of(name: str, labels: Iterable[tuple[str, object]]) -> Key:
    """The name of a metric with its labels sorted and their values as text.

    >>> key_of("latency", [("tenant", "b"), ("call", 1)])
    ('latency', (('call', '1'), ('tenant', 'b')))
    """
    return name, tuple(sorted((label, str(value)) for label, value in labels))


def named(key: Key) -> None:
    """Check that exporters can write a name and its labels.

    Raises:
        InputError: when they cannot, or a label is reserved.
    """
    name, labels = key
    for text in (name, *(label for label, _ in labels)):
        if not (isinstance(text, str) and NAME.fullmatch(text)):
            raise InputError(
                f"{text!r} was given as the name of a metric or label; expected letters, "
                "digits and underscores, not starting with a digit."
            )
    for label, value in labels:
        if label == RESERVED or label.startswith("__"):
            raise InputError(
                f"{name!r} has the label {label!r}, which Prometheus needs for itself; use a label "
                "that is not 'quantile' and does not begin with '__'."
            )
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise InputError(
                    f"{name!r} has the label {label!r} with the value {value!r}, which cannot be "
                    "written as UTF-8; expected text without lone surrogates."
                ) from None
    if len({label for label, _ in labels}) < len(labels):
        raise InputError(f"{name!r} has the same label twice: {labels!r}; expected each once.")

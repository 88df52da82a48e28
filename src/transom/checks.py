"""Checks of parameters, worded alike wherever they are made."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from transom.errors import InputError, TransomError

__all__ = ["byte_size", "whole_number"]

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def whole_number(
    owner: str,
    name: str,
    value: Any,
    minimum: int,
    *,
    unit: str = "tokens",
    error: type[TransomError] = InputError,
) -> int:
    """`value` as an int, when it is a whole number of at least `minimum`.

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
    return int(value)


def byte_size(owner: str, name: str, text: str, *, error: type[TransomError] = InputError) -> int:
    """Bytes written as people write them, `"48MiB"` or `"1.5 GB"`.

    Raises:
        TransomError: of type `error`, naming the owner, the parameter, what came and what was
            expected.

    >>> byte_size("ContextMemoryManager", "max_memory", "1.5 GiB")
    1610612736
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    unit = UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or not float(match[1]):
        raise error(
            f"{owner}: {name} is {text!r}; expected a size in bytes with its unit, such as 48MiB "
            "or 1.5GB."
        )
    return int(float(match[1]) * unit)

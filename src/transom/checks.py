"""Checks of parameters, worded alike wherever they are made."""

from __future__ import annotations

from typing import Any

import numpy as np

from transom.errors import InputError, TransomError

__all__ = ["whole_number"]


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

"""Whole numbers that a user gave."""

from __future__ import annotations

import numpy as np

from transom.errors import InputError, TransomError

__all__ = ["whole_number"]

# Below what 64 bits hold, with room for sums. With larger numbers numpy and torch raise errors of
# their own, or wrap around to negative ones.
MOST = 2**62


def whole_number(
    owner: str,
    name: str,
    value: object,
    minimum: int | None = None,
    *,
    unit: str = "tokens",
    error: type[TransomError] = InputError,
    maximum: int = MOST,
) -> int:
    """`value` as an int, when it is a whole number from `minimum`, if there is one, to `maximum`.

    Raises:
        TransomError: of type `error`, naming the owner, the parameter, what came and what was
            expected.

    >>> whole_number("SlidingWindow", "stride", 4, minimum=1)
    4
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        least = "" if minimum is None else f", at least {minimum}"
        raise error(
            f"{owner}: {name} is {value!r} ({type(value).__name__}); "
            f"expected a whole number of {unit}{least}."
        )
    if minimum is not None and value < minimum:
        raise error(f"{owner}: {name} is {value}; expected at least {minimum}.")
    if value > maximum:
        raise error(f"{owner}: {name} is {value}; expected at most {maximum:,}.")
    return int(value)

"""Options that name several things at once."""

from __future__ import annotations

from transom.errors import InputError
from transom.policies import Policy, parse
from transom.quantities import to_tokens

__all__ = ["depths_of", "lengths_of", "names_of", "several"]


def several(text: str) -> list[Policy]:
    """Policies parted by `;`.

    >>> several("full; window:512")
    [Full(), Window(size=512)]
    """
    return [parse(one) for one in text.split(";") if one.strip()]


def names_of(text: str) -> list[str]:
    """Names parted by commas.

    >>> names_of("loss, needle")
    ['loss', 'needle']
    """
    return [name.strip() for name in text.split(",") if name.strip()]


def lengths_of(text: str) -> tuple[int, ...]:
    """Lengths parted by commas, in tokens, shortest first.

    >>> lengths_of("4k,2k,3000")
    (2048, 3000, 4096)
    """
    return tuple(sorted({to_tokens(one, "--lengths") for one in names_of(text)}))


def depths_of(count: int) -> tuple[float, ...]:
    """That many depths from 0 to 1, evenly spaced.

    >>> depths_of(5)
    (0.0, 0.25, 0.5, 0.75, 1.0)
    """
    if count < 1:
        raise InputError(f"--depths is {count}; expected at least 1.")
    if count == 1:
        return (0.5,)
    return tuple(round(index / (count - 1), 4) for index in range(count))

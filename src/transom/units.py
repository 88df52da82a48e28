"""Reads and writes sizes, times and counts as people write them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from transom.errors import InputError

__all__ = ["plain_flops", "plain_seconds", "plain_size", "to_bytes", "to_seconds", "to_tokens"]

BYTES = {
    **{"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "tb": 1000**4},
    **{"kib": 1024, "mib": 1024**2, "gib": 1024**3, "tib": 1024**4},
}
SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
TOKENS = {"": 1, "k": 1024, "m": 1024**2}
EXACT = 2**53  # up to here, a float holds every whole number exactly
QUANTITY = re.compile(r"\s*([\d.,_]+)\s*([a-zµ]*)\s*", re.IGNORECASE)


def to_bytes(text: str, name: str = "size") -> int:
    """The bytes in a size such as `2GiB`, `512MB` or `1_000_000`.

    Raises:
        InputError: when it is anything else, or less than a byte; the message has `name`.

    >>> to_bytes("2GiB"), to_bytes("1.5 kB")
    (2147483648, 1500)
    """
    return _whole(text, name, BYTES, "a size such as 2GiB, 512MB or a number of bytes")


def to_tokens(text: str, name: str = "length") -> int:
    """The tokens in a count such as `4096` or `4k`; k is 1,024, as in context lengths of models.

    Raises:
        InputError: when it is anything else, or less than a token; the message has `name`.

    >>> to_tokens("32k"), to_tokens("500")
    (32768, 500)
    """
    return _whole(text, name, TOKENS, "a number of tokens such as 4096 or 4k")


def to_seconds(text: str, name: str = "time") -> float:
    """The seconds in a time such as `60ms` or `1.5s`.

    Raises:
        InputError: when it is anything else, such as a number without a unit; the message has
            `name`.

    >>> to_seconds("60ms")
    0.06
    """
    return _number(text, name, SECONDS, "a time with its unit, such as 60ms or 1.5s")


def plain_size(size: int) -> str:
    """A number of bytes in the unit that reads best, to three figures.

    >>> plain_size(47_238_144), plain_size(1_210_000_000)
    ('47.2 MB', '1.21 GB')
    """
    return _in_units(size, ("bytes", "kB", "MB", "GB"))


def plain_flops(count: int) -> str:
    """A number of floating-point operations in the unit that reads best, to three figures.

    >>> plain_flops(19_331_547_136)
    '19.3 GFLOP'
    """
    return _in_units(count, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"))


def plain_seconds(seconds: float) -> str:
    """A time in the unit that reads best, to three figures.

    >>> plain_seconds(0.0423), plain_seconds(75), plain_seconds(0.00042)
    ('42.3 ms', '75 s', '420 µs')
    """
    return _in_units(seconds * 1e6, ("µs", "ms", "s"))


def _whole(text: str, name: str, units: Mapping[str, float], expected: str) -> int:
    value = _number(text, name, units, expected)
    if value < 1 or value != int(value):
        raise InputError(f"{name} is {text!r}; expected {expected}, whole and at least 1.")
    if value > EXACT:
        raise InputError(f"{name} is {text!r}; expected {expected}, at most {EXACT:,}.")
    return int(value)


def _number(text: str, name: str, units: Mapping[str, float], expected: str) -> float:
    match = QUANTITY.fullmatch(text)
    unit = match.group(2).lower() if match else ""
    try:
        if match is None or unit not in units:
            raise ValueError
        value = float(match.group(1).replace(",", "").replace("_", "")) * units[unit]
    except ValueError:
        raise InputError(f"{name} is {text!r}; expected {expected}.") from None
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{name} is {text!r}; expected {expected}, above 0.")
    return value


def _in_units(number: float, units: Sequence[str]) -> str:
    value = float(number)
    for unit in units:
        if value < 999.5 or unit == units[-1]:
            break
        value /= 1000
    return f"{value:,.3g} {unit}" if value < 999.5 else f"{value:,.0f} {unit}"

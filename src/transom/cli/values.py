"""What the texts of options mean: numbers, names, policies, lengths."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import typer

from transom.errors import InputError
from transom.policies import Policy, parse
from transom.units import to_tokens

__all__ = [
    "STREAM",
    "at_least",
    "check_choice",
    "depths_of",
    "lengths_of",
    "named",
    "named_or_stream",
    "number",
    "policies_of",
    "split",
    "tokens_of",
    "whole",
]

STREAM = "-"  # standard input or output, for the options that accept it


def tokens_of(text: str, option: str) -> int:
    """A count of tokens, such as 4096 or 4k.

    >>> tokens_of("4k", "--limit")
    4096
    """
    if re.fullmatch(r"-\d+|0+", text):
        raise InputError(f"{option} is {int(text)}; expected at least 1 token.")
    return to_tokens(text, option)


def whole(text: str) -> int:
    """A whole number. A parser of an option.

    Raises:
        typer.BadParameter: on anything else.

    >>> whole("3")
    3
    """
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} came; expected a whole number such as 3.") from None


def at_least(least: int) -> Callable[[str], int]:
    """The parser of an option whose value is a whole number of at least `least`.

    >>> at_least(1)("3")
    3
    """

    def read(text: str) -> int:
        value = whole(text)
        if value < least:
            raise typer.BadParameter(f"{value} came; expected at least {least}.")
        return value

    return read


def number(text: str) -> float:
    """A number. A parser of an option.

    Raises:
        typer.BadParameter: on anything else.

    >>> number("0.5")
    0.5
    """
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} came; expected a number such as 0.5.") from None


def named(text: str | Path) -> Path:
    """The name of a file or folder. A parser of an option.

    Raises:
        typer.BadParameter: on an empty name, which would mean the current folder, and on `-`,
            which means standard input or output elsewhere.

    >>> named("report").name
    'report'
    """
    if not str(text).strip():
        raise typer.BadParameter(f"{text!r} came; expected a name.")
    if text == STREAM:
        raise typer.BadParameter("- came; expected a name, such as ./- for a file of that name.")
    return Path(text)


def named_or_stream(text: str) -> str:
    """Like `named`, but accepts `-` and returns it unchanged."""
    return text if text == STREAM else str(named(text))


def check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a value that is none of the choices.

    Raises:
        InputError: which lists the choices.
    """
    if value not in choices:
        raise InputError(f"{option} is {value!r}; expected one of {', '.join(choices)}.")


def split(text: str, separator: str) -> list[str]:
    """The parts of a text, without spaces around them and without empty ones.

    >>> split("loss, needle,", ",")
    ['loss', 'needle']
    """
    return [part.strip() for part in text.split(separator) if part.strip()]


def policies_of(text: str) -> list[Policy]:
    """Policies, separated by `;`.

    >>> policies_of("full; window:512")
    [Full(), Window(size=512)]
    """
    return [parse(one) for one in split(text, ";")]


def lengths_of(text: str) -> tuple[int, ...]:
    """Lengths in tokens, separated by commas; returned without duplicates, shortest first.

    >>> lengths_of("4k,2k,3000")
    (2048, 3000, 4096)
    """
    return tuple(sorted({to_tokens(one, "--lengths") for one in split(text, ",")}))


def depths_of(count: int) -> tuple[float, ...]:
    """That many depths, evenly spaced from 0 (the start of a prompt) to 1 (its end).

    >>> depths_of(5)
    (0.0, 0.25, 0.5, 0.75, 1.0)
    """
    if count < 1:
        raise InputError(f"--depths is {count}; expected at least 1.")
    if count == 1:
        return (0.5,)
    return tuple(round(index / (count - 1), 4) for index in range(count))

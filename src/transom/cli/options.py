"""Options that several commands have, and what their texts mean."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from transom.errors import InputError
from transom.models.placement import DTYPES, check_device, check_dtype
from transom.policies import Policy, parse
from transom.units import to_tokens

if TYPE_CHECKING:
    from transom.models import Loaded

__all__ = [
    "CHUNK",
    "DEVICE",
    "DTYPE",
    "MAX_NEW_TOKENS",
    "SEED",
    "STREAM",
    "TEXT",
    "at_least",
    "check_placement",
    "depths_of",
    "lengths_of",
    "load",
    "named",
    "named_or_stream",
    "names_of",
    "number",
    "several",
    "tokens_of",
    "tokens_option",
    "whole",
]


def tokens_of(text: str, option: str) -> int:
    """The tokens of an option: a count such as 4096 or 4k.

    >>> tokens_of("4k", "--limit")
    4096
    """
    if re.fullmatch(r"-\d+|0+", text):
        raise InputError(f"{option} is {int(text)}; expected at least 1 token.")
    return to_tokens(text, option)


def tokens_option(name: str, *, help: str) -> Any:
    """An option whose value is a count of tokens, such as 4096 or 4k."""

    def read(text: str | None) -> int | None:
        return None if text is None else tokens_of(text, name)

    # Not as its parser, as what that raises would not be shown.
    return typer.Option(name, metavar="N", parser=str, callback=read, help=help)


STREAM = "-"  # standard input or output, where a command takes that


def whole(text: str) -> int:
    """A whole number, as the parser of an option.

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
    """What reads a whole number that is not below `least`, as the parser of an option.

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
    """A number, as the parser of an option.

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
    """The name of a file or folder, as the parser of an option.

    Raises:
        typer.BadParameter: on none, which would be the current folder, and on `-`, which stands
            for standard input or output where a command takes that.

    >>> named("report").name
    'report'
    """
    if not str(text).strip():
        raise typer.BadParameter(f"{text!r} came; expected a name.")
    if text == STREAM:
        raise typer.BadParameter("- came; expected a name, such as ./- for one that is called so.")
    return Path(text)


def named_or_stream(text: str) -> str:
    """As `named`, but `-` may come, which it is left as."""
    return text if text == STREAM else str(named(text))


DTYPE = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="NAME",
        help=f"Load the weights as {', '.join(DTYPES[:-1])} or {DTYPES[-1]}.",
    ),
]
DEVICE = Annotated[
    str | None,
    typer.Option("--device", metavar="NAME", help="Run on cpu, cuda, cuda:1 or mps."),
]
CHUNK = Annotated[int, tokens_option("--chunk", help="Feed N tokens per forward pass.")]
MAX_NEW_TOKENS = Annotated[
    int, tokens_option("--max-new-tokens", help="End an answer after N tokens.")
]
SEED = Annotated[
    int, typer.Option("--seed", metavar="N", parser=whole, help="Seed everything random with N.")
]
TEXT = Annotated[
    str | None,
    typer.Option(
        "--text",
        metavar="FILE",
        help="Read this text, or - for stdin. [default: Python's reference]",
    ),
]


def check_placement(dtype: str | None, device: str | None) -> None:
    """Refuse a dtype or device that cannot be used here, before anything that takes its time.

    Raises:
        InputError: naming the option and what can be used.
        MissingExtraError: when a device is given, and torch is not installed.
    """
    from transom.models.load import require_torch

    check_dtype(dtype, "--dtype")
    if device is not None:
        require_torch()
    check_device(device, "--device")


def load(model: str, dtype: str | None, device: str | None) -> Loaded:
    """The model called `model`, with a line on standard error for each step that takes long."""
    from transom import models

    check_placement(dtype, device)
    return models.load(
        model, dtype=dtype, device=device, report=lambda line: print(line, file=sys.stderr)
    )


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

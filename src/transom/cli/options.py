"""Options that several commands have, and what their texts mean."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from transom.errors import InputError
from transom.models.placement import DTYPES, check_device, check_dtype
from transom.policies import Policy, parse
from transom.quantities import to_tokens

if TYPE_CHECKING:
    from transom.models import Loaded

__all__ = [
    "DEVICE",
    "DTYPE",
    "check_placement",
    "depths_of",
    "lengths_of",
    "load",
    "names_of",
    "several",
    "tokens_of",
    "whole",
]

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


def tokens_of(text: str, option: str) -> int:
    """The tokens of an option: a count such as 4096 or 4k.

    >>> tokens_of("4k", "--limit")
    4096
    """
    if re.fullmatch(r"-\d+|0+", text):
        raise InputError(f"{option} is {int(text)}; expected at least 1 token.")
    return to_tokens(text, option)


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

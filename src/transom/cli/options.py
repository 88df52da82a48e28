"""Options that several commands share, and the loading that they ask for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from transom.cli.values import tokens_of, whole
from transom.models.placement import DTYPES, check_device, check_dtype

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from transom.models import Loaded

__all__ = [
    "CHUNK",
    "DEVICE",
    "DTYPE",
    "FIELD",
    "MAX_NEW_TOKENS",
    "MODEL",
    "SEED",
    "TEXT",
    "TOKENIZER",
    "check_placement",
    "load",
    "load_tokenizer",
    "tokens_option",
]


def tokens_option(name: str, *, help: str) -> Any:
    """An option whose value is a count of tokens, such as 4096 or 4k."""

    def read(text: str | None) -> int | None:
        return None if text is None else tokens_of(text, name)

    # A callback and no parser: typer replaces the messages of errors from parsers.
    return typer.Option(name, metavar="N", parser=str, callback=read, help=help)


MODEL = Annotated[
    str, typer.Argument(metavar="MODEL", help="Load this model; see `transom models`.")
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
        help="Read this text; - for stdin. [default: the Python language reference]",
    ),
]
TOKENIZER = Annotated[
    str,
    typer.Option(
        "--tokenizer",
        metavar="NAME",
        help="Tokenize with this: an alias, a folder, a tokenizer.json or a hub id.",
    ),
]
FIELD = Annotated[
    str,
    typer.Option("--field", metavar="NAME", help="Take the text from this key or column of rows."),
]


def check_placement(dtype: str | None, device: str | None) -> None:
    """Refuse a dtype or device that cannot be used here, before anything slow.

    Raises:
        InputError: which names the option and what can be used.
        MissingExtraError: when a device is given, and torch is not installed.
    """
    from transom.models.load import require_torch

    check_dtype(dtype, "--dtype")
    if device is not None:
        require_torch()
    check_device(device, "--device")


def load(model: str, dtype: str | None, device: str | None) -> Loaded:
    """Load the model called `model`. Slow steps are announced on standard error."""
    from transom import models

    check_placement(dtype, device)
    return models.load(model, dtype=dtype, device=device, report=_announce)


def load_tokenizer(name: str) -> Tokenizer:
    """Load the tokenizer called `name`. Slow steps are announced on standard error."""
    from transom import models

    return models.load_tokenizer(name, report=_announce)


def _announce(line: str) -> None:
    print(line, file=sys.stderr)

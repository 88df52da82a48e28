"""Figures as JSON: to a file, or to standard output for `-`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from transom.cli.options import STREAM, named_or_stream
from transom.outputs import check_target, write_text

__all__ = ["JSON", "check_json", "file_of", "write_json"]

JSON = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE",
        parser=named_or_stream,
        help="Write all figures as JSON; - for standard output.",
    ),
]


def file_of(target: str | None) -> Path | None:
    """The file to write, if it is one."""
    return None if target in (None, STREAM) else Path(str(target))


def check_json(target: str | None, *others: Path | str | None) -> None:
    """Refuse now what could not be written later; see `transom.outputs.check_target`."""
    check_target(file_of(target), *others)


def write_json(figures: Any, target: str | None) -> None:
    """Write figures, at once, so that a reader never sees half a file; None is nothing to write.

    Raises:
        InputError: when the file cannot be written.
    """
    if target is None:
        return
    text = json.dumps(figures, indent=2, allow_nan=False) + "\n"
    file = file_of(target)
    if file is None:
        sys.stdout.write(text)
    else:
        write_text(file, text)

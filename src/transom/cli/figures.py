"""Figures as JSON, into a file or to standard output; and checks of the files that are written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from transom.cli.values import STREAM, named_or_stream
from transom.outputs import check_picture, check_target, write_text

__all__ = ["JSON", "check_outputs", "file_of", "write_json"]

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
    """The file that `--json` names; None when there is none."""
    return None if target in (None, STREAM) else Path(str(target))


def check_outputs(json: str | None, plot: Path | None, *inputs: Path | str | None) -> None:
    """Refuse `--json` and `--plot` before any work, when they could not be written after it.

    Args:
        json: the value of `--json`.
        plot: the value of `--plot`.
        inputs: the files that the command reads, which must not be overwritten.

    Raises:
        InputError: see `transom.outputs.check_target`.
    """
    check_picture(plot, *inputs)
    check_target(file_of(json), *inputs, plot)


def write_json(figures: object, target: str | None) -> None:
    """Write figures so that a reader never sees half a file; does nothing when `target` is None.

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

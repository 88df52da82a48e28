"""The terminal: one file per command, or per group of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import TextIOWrapper

import typer

from transom.cli import (
    advise,
    chat,
    corpus,
    demo,
    evaluate,
    memory,
    models,
    patterns,
    policies,
    read,
    top,
    windows,
)
from transom.errors import TransomError

__all__ = ["main"]

app = typer.Typer(
    name="transom",
    help="Keep a language model's context inside a budget, and see what that costs.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help and plain usage errors, also where output is piped
    pretty_exceptions_enable=False,
)
for command in (
    read.read,
    chat.chat,
    evaluate.evaluate,
    windows.windows,
    policies.policies,
    patterns.patterns,
    models.models,
    top.top,
    demo.demo,
):
    app.command()(command)
app.add_typer(corpus.app)
app.add_typer(memory.memory)
app.command("advise")(advise.advise_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 when done, 2 on a mistake, 130 after Ctrl-C."""
    if isinstance(sys.stdout, TextIOWrapper):
        # A file's name may be in no encoding, and the terminal's may not have every letter.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app(arguments, prog_name="transom")
    except TransomError as error:
        print(f"transom: {error}", file=sys.stderr)
        raise SystemExit(2) from None

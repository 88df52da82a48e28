"""The terminal: `transom read`, `windows`, `corpus`, `policies`, `patterns`, `models`, `demo`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from transom.cli import corpus, demo, models, patterns, policies, read, windows
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
    windows.windows,
    policies.policies,
    patterns.patterns,
    models.models,
    demo.demo,
):
    app.command()(command)
app.add_typer(corpus.app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 when done, 2 on a mistake, 130 after Ctrl-C."""
    try:
        app(arguments, prog_name="transom")
    except TransomError as error:
        print(f"transom: {error}", file=sys.stderr)
        raise SystemExit(2) from None

"""The terminal: one file per command, or per group of them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from transom import __version__
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
from transom.errors import InputError, TransomError

__all__ = ["main"]


class Commands(TyperGroup):
    """The commands; says what to do where a file is given in the place of one."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first argument names.

        Raises:
            InputError: when it names none, but a file.
        """
        if self.get_command(ctx, args[0]) is None and Path(args[0]).is_file():
            raise InputError(
                f"{args[0]} is a file; expected a command. To read it in a fixed window: "
                f"{shlex.join(['transom', 'read', args[0]])}"
            )
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="transom",
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},  # of all commands below it, too
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help and plain usage errors, also where output is piped
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"transom {__version__}")
        raise typer.Exit


@app.callback()
def _of_all(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Keep a language model's context inside a budget, and see what that costs."""


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
    except OSError as error:  # of the machine, such as a standard output that is full
        print(f"transom: the operating system refused a call: {error}", file=sys.stderr)
        raise SystemExit(2) from None

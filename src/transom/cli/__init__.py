"""The command line: a file per command, or per group of commands."""

from __future__ import annotations

import os.path
import shlex
from collections.abc import Sequence
from errno import EBADF
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
from transom.cli.exit_codes import BROKEN_PIPE, MISTAKE
from transom.cli.streams import complain, flush_output, open_streams, orderly_end
from transom.errors import InputError, TransomError

__all__ = ["main"]


class CommandGroup(TyperGroup):
    """The commands. Suggests `transom read` if the user gives a file instead of a command."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first argument names.

        Raises:
            InputError: when it names no command, but a file.
        """
        if self.get_command(ctx, args[0]) is None and os.path.isfile(args[0]):
            raise InputError(
                f"{args[0]} is a file; expected a command. To read it in a fixed window: "
                f"{shlex.join(['transom', 'read', args[0]])}"
            )
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="transom",
    cls=CommandGroup,
    context_settings={"help_option_names": ["-h", "--help"]},  # for all commands below, too
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help and errors, the same through a pipe
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"transom {__version__}")
        raise typer.Exit


@app.callback()
def _options_of_all_commands(
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
    open_streams()
    code: str | int | None = MISTAKE
    unwritten: OSError | None = None
    try:
        with orderly_end():
            app(arguments, prog_name="transom")
    except SystemExit as ended:
        code = ended.code
    except TransomError as error:
        complain(str(error))
    except MemoryError as error:
        complain(f"there is not enough memory{f': {error}' if str(error) else ''}.")
    except OSError as error:
        if error.filename is None:  # Errors of the files that a user named became InputErrors.
            unwritten = error
        else:
            complain(f"the operating system refused a call: {error}.")
    unwritten = flush_output() or unwritten
    if isinstance(unwritten, BrokenPipeError):  # a reader such as `head` has seen enough
        code = code or BROKEN_PIPE
    elif unwritten is not None:
        closed = unwritten.errno == EBADF
        complain(
            "cannot write to standard output: "
            f"{'it is closed' if closed else unwritten.strerror or unwritten}."
        )
        code = code or MISTAKE
    raise SystemExit(code)

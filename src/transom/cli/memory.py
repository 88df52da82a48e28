"""`transom memory`: the budget of many contexts."""

from __future__ import annotations

import typer

from transom.cli.replay import replay

__all__ = ["memory"]

memory = typer.Typer(
    name="memory",
    help="Many contexts under one budget of bytes.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
memory.command()(replay)

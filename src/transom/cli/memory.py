"""`transom memory`: stores of contexts, and eviction policies on a trace."""

from __future__ import annotations

import typer

from transom.cli import store
from transom.cli.replay import replay

__all__ = ["memory"]

memory = typer.Typer(
    name="memory",
    help="Inspect and clean up stores; compare eviction policies.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (store.stats, store.ls, store.verify, store.evict, store.clear, replay):
    memory.command()(command)

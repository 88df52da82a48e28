"""Results as tables: with rules on a terminal, as plain columns through a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

__all__ = ["print_table", "result_console", "table_of"]

PIPED_WIDTH = 1_000_000  # columns; a pipe has no width, and lines must not be broken


def result_console(stderr: bool = False) -> Console:
    """The console for results. It prints text as it is: no markup, no highlighting, no emoji."""
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    return console


def print_table(
    console: Console,
    title: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    left: int = 1,
) -> None:
    """Print a table. The first `left` columns are text; the others are figures."""
    if title:
        console.print(title, style="bold")
    console.print(table_of(header, rows, left, ruled=console.is_terminal))


def table_of(
    header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1, *, ruled: bool
) -> Table:
    """A table. The first `left` columns are text; the others are figures."""
    table = Table(
        box=SIMPLE_HEAD if ruled else None,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0) if ruled else (0, 2, 0, 0),
    )
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table

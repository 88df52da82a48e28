"""Progress bars, on stderr, and only where that is a terminal."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

__all__ = ["Bars"]

# Columns that the rest of a line takes. A line that filled the terminal would be torn apart by the
# ^C that the terminal itself writes.
FIGURES = 72


class Bars:
    """While open, shows the bars that were started, one below the other."""

    def __init__(self) -> None:
        console = Console(stderr=True, highlight=False)
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=min(40, max(8, console.width - FIGURES))),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}", justify="right"),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def start(self, title: str, total: int) -> Callable[[int, str], None]:
        """Add a bar; returns what moves it to a number, with figures to show behind it."""
        task = self._bar.add_task(title, total=total, figures="")
        return lambda done, figures: self._bar.update(task, completed=done, figures=figures)

"""Progress bars on standard error, if that is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

__all__ = ["ProgressBars"]

STOPPING = "stopping after this pass; press Ctrl-C again to stop at once"

# Columns of a line besides the bar. A line must not fill the terminal, because the ^C that the
# terminal itself writes would break it.
FIGURES = 72
REMAINING = 6  # columns of the remaining time
PACE = 600  # seconds: the remaining time follows from the speed over so long


class ProgressBars:
    """While open, shows the bars that were started, one below the other.

    Args:
        above: returns what to show above the bars, such as a table that fills.
        remaining: whether to show the remaining time.
    """

    def __init__(
        self, above: Callable[[], RenderableType] | None = None, *, remaining: bool = False
    ) -> None:
        console = Console(stderr=True, highlight=False)
        rest = FIGURES + (REMAINING if remaining else 0)
        self._bar = _BarsBelow(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=min(40, max(4, console.width - rest))),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}", justify="right"),
            *([TimeRemainingColumn(compact=True, elapsed_when_finished=True)] if remaining else []),
            TextColumn("{task.fields[figures]}", markup=False),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=PACE,
            refresh_per_second=4,
        )
        self._bar.above = above

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

    def stopping(self) -> None:
        """Say above the bars that the work is about to stop; also if there is no terminal."""
        self._bar.console.print(STOPPING)

    def start(self, title: str, total: int) -> Callable[[int, str], None]:
        """Add a bar. The function returned moves it to a number and shows figures behind it."""
        task = self._bar.add_task(title, total=total, figures="begins")
        return lambda done, figures: self._bar.update(task, completed=done, figures=figures)


class _BarsBelow(RichProgress):
    """Bars below something else."""

    above: Callable[[], RenderableType] | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        if self.above is not None:
            yield self.above()
        yield from super().get_renderables()

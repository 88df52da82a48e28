"""Progress bars, on stderr, and only where that is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

__all__ = ["Bars"]

STOPPING = "stopping after this pass; press Ctrl-C again to end at once"

# Columns that the rest of a line takes. A line that filled the terminal would be torn apart by the
# ^C that the terminal itself writes.
FIGURES = 72
REMAINING = 6  # as many more where it is said how long it will still be
PACE = 600  # seconds over which the pace is taken that says how long it will still be


class Bars:
    """While open, shows the bars that were started, one below the other.

    Args:
        above: gives what is shown above them, such as a table that fills.
        remaining: whether to say how long it will still be.
    """

    def __init__(
        self, above: Callable[[], RenderableType] | None = None, *, remaining: bool = False
    ) -> None:
        console = Console(stderr=True, highlight=False)
        rest = FIGURES + (REMAINING if remaining else 0)
        self._bar = _Below(
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
        """Say, above the bars, that a request to stop has come; on stderr, terminal or not."""
        self._bar.console.print(STOPPING)

    def start(self, title: str, total: int) -> Callable[[int, str], None]:
        """Add a bar; returns what moves it to a number, with figures to show behind it."""
        task = self._bar.add_task(title, total=total, figures="begins")
        return lambda done, figures: self._bar.update(task, completed=done, figures=figures)


class _Below(Bar):
    """Bars with something above them."""

    above: Callable[[], RenderableType] | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        if self.above is not None:
            yield self.above()
        yield from super().get_renderables()

"""`transom top`: the budgets and processes of a store, live."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from transom.cli.tables import print_table, result_console
from transom.cli.values import named, number
from transom.errors import InputError
from transom.memory.activity import Activity
from transom.memory.tiers.disk.inspection import StoreInspection, inspect_store
from transom.units import plain_size

__all__ = ["top"]

HEADER = (
    "pid",
    "idle",
    "contexts",
    "memory",
    "of",
    "",
    "hits",
    "rate",
    "ram",
    "disk",
    "evicted",
    "gone",
)
LEGEND = (
    "idle: time since the last call, when the figures were taken; hits: share of all requests; "
    "rate: hits and misses per second; ram, disk: payloads read per second; evicted: from memory, "
    "per second; gone: evicted from disk, per second"
)


LEAST, MOST = 0.05, 3600.0  # seconds between two inspections


class Moment(NamedTuple):
    """A store, and when it was inspected."""

    at: float
    store: StoreInspection


def top(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", parser=named, help="The folder that a manager was given as disk."
        ),
    ],
    every: Annotated[
        float, typer.Option(metavar="SECONDS", parser=number, help="Refresh this often.")
    ] = 0.5,
    once: Annotated[bool, typer.Option("--once", help="Print once, as plain text.")] = False,
) -> None:
    """Watch a store: its budgets, and who hits, misses and evicts. Ctrl-C ends it.

    Watching changes nothing, and no process has to wait. Piped output is printed once.
    """
    folder = path.expanduser()
    if not LEAST <= every <= MOST:
        raise InputError(
            f"--every is {every}; expected at least {LEAST} seconds, and at most {MOST:,.0f}."
        )
    before = Moment(time.monotonic(), inspect_store(folder))
    console = Console(highlight=False)
    if once or not console.is_terminal:
        time.sleep(every)
        _print(folder, before, Moment(time.monotonic(), inspect_store(folder)))
        return
    try:
        with Live(_screen(folder, before, before), console=console, screen=True) as live:
            while True:
                time.sleep(every)
                now = Moment(time.monotonic(), inspect_store(folder))
                live.update(_screen(folder, before, now), refresh=True)
                before = now
    except KeyboardInterrupt:
        return


def _print(folder: Path, before: Moment, now: Moment) -> None:
    console = result_console()
    seen = now.store
    part = f"{seen.used / max(1, seen.capacity):.0%}"  # 0 while it is being made
    console.print(
        f"{folder}: {plain_size(seen.used)} of {plain_size(seen.capacity)} ({part}), peak "
        f"{plain_size(seen.peak)}, {_rate(before, now):,.0f} changes/s, {seen.pins:,} pins"
    )
    print_table(console, "", HEADER, _rows(before, now), left=0)


def _screen(folder: Path, before: Moment, now: Moment) -> RenderableType:
    seen = now.store
    budgets = Table.grid(padding=(0, 2))
    budgets.add_column(no_wrap=True)
    budgets.add_column()  # of bars, which give way to figures in a narrow terminal
    budgets.add_column(justify="right", no_wrap=True)
    _add_bar(budgets, "disk", seen.used, seen.capacity, f"peak {plain_size(seen.peak)}")
    for pid, activity in _activities(now):
        _add_bar(budgets, f"memory of {pid}", activity.bytes, activity.capacity, "")
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in HEADER:
        table.add_column(name, justify="right")
    for row in _rows(before, now):
        table.add_row(*row)
    title = Text.assemble(
        ("transom top ", "bold"),
        f"{folder}  {len(seen.processes)} processes, {_rate(before, now):,.0f} changes/s, "
        f"{seen.pins} pins",
    )
    title.no_wrap, title.overflow = True, "ellipsis"
    return Group(title, Text(), budgets, Text(), table, Text(), Text(LEGEND, style="dim"))


def _add_bar(table: Table, name: str, used: int, capacity: int, note: str) -> None:
    part = used / max(1, capacity)
    figures = f"{plain_size(used)} of {plain_size(capacity)} ({part:.0%})"
    bar = ProgressBar(total=1.0, completed=min(1.0, part), width=40)
    table.add_row(name, bar, f"{figures}  {note}".rstrip())


def _rows(before: Moment, now: Moment) -> list[tuple[str, ...]]:
    earlier = dict(_activities(before))
    seconds = max(1e-6, now.at - before.at)
    rows: list[tuple[str, ...]] = []
    for pid, one in _activities(now):
        last = earlier.get(pid, one)
        asked = one.hits + one.misses

        def rate(*names: str, one: Activity = one, last: Activity = last) -> str:
            grown = sum(getattr(one, name) - getattr(last, name) for name in names)
            return f"{max(0, grown) / seconds:,.0f}"

        rows.append(
            (
                str(pid),
                f"{max(0.0, time.time() - one.at / 1000):,.0f} s",
                f"{one.contexts:,}",
                plain_size(one.bytes),
                plain_size(one.capacity),
                f"{one.bytes / max(1, one.capacity):.0%}",
                f"{one.hits / asked:.1%}" if asked else "-",
                rate("hits", "misses"),
                rate("ram_hits"),
                rate("disk_hits"),
                rate("ram_evicted"),
                rate("disk_evicted"),
            )
        )
    return rows


def _activities(moment: Moment) -> list[tuple[int, Activity]]:
    processes: Sequence[tuple[int, Sequence[int]]] = moment.store.processes
    return [(pid, Activity.of(numbers)) for pid, numbers in processes]


def _rate(before: Moment, now: Moment) -> float:
    seconds = max(1e-6, now.at - before.at)
    return max(0, now.store.changes - before.store.changes) / seconds

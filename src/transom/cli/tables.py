"""Results as tables: ruled on a terminal, plain columns where output is piped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from transom.evaluate.reading import COLUMNS

if TYPE_CHECKING:
    from transom.cli.compare import Comparison

__all__ = ["plain_flops", "plain_size", "print_comparison", "print_table", "result_console"]

WIDE = 1_000_000  # columns of what is piped, where no terminal says


def result_console(stderr: bool = False) -> Console:
    """Where results go; text is shown as it is, without markup or colouring."""
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDE
    return console


def print_table(
    console: Console,
    title: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    left: int = 1,
) -> None:
    """Print a table whose first `left` columns are text and the others figures."""
    ruled = console.is_terminal
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
    if title:
        console.print(title, style="bold")
    console.print(table)


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print everything about every run: the text, what was kept, the cost, the loss, the answer."""
    runs = comparison.runs
    print_table(
        console,
        f"{comparison.model}, {comparison.tokens:,} tokens ({comparison.characters:,} characters)",
        ("policy", "tokens", "kept", "dropped", "loss", "perplexity"),
        [
            (
                run.policy,
                f"{run.tokens:,}",
                f"{run.kept:,}",
                f"{run.dropped:,}",
                _loss(run.loss),
                f"{run.perplexity:,.2f}",
            )
            for run in runs
        ],
    )
    console.print()
    print_table(
        console,
        "Speed and peak memory: keys and values (KV), whole process (RSS)",
        ("policy", "tokens/s", "KV bytes", "", "KV bound", "RSS"),
        [
            (
                run.policy,
                f"{run.tokens_per_second:,.0f}",
                f"{run.kv_bytes_peak:,}",
                plain_size(run.kv_bytes_peak),
                "none" if run.kv_bytes_bound is None else f"{run.kv_bytes_bound:,}",
                "unknown" if run.rss_peak is None else plain_size(run.rss_peak),
            )
            for run in runs
        ],
    )
    console.print()
    _print_stretches(console, comparison)
    for run in runs:
        if run.answer is not None:
            console.print(f"\n{run.policy} answers:\n{run.answer}")


def plain_size(size: int) -> str:
    """Bytes in the unit that reads best, to three figures.

    >>> plain_size(47_238_144), plain_size(1_210_000_000)
    ('47.2 MB', '1.21 GB')
    """
    return _in_units(size, ("bytes", "kB", "MB", "GB"))


def plain_flops(count: int) -> str:
    """Floating-point operations in the unit that reads best, to three figures.

    >>> plain_flops(19_331_547_136)
    '19.3 GFLOP'
    """
    return _in_units(count, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"))


def _in_units(number: int, units: Sequence[str]) -> str:
    value = float(number)
    for unit in units:
        if value < 999.5 or unit == units[-1]:
            break
        value /= 1000
    return f"{value:,.3g} {unit}" if value < 999.5 else f"{value:,.0f} {unit}"


def _print_stretches(console: Console, comparison: Comparison) -> None:
    longest = max((run.curve for run in comparison.runs), key=lambda curve: curve.tokens)
    length = longest.length(COLUMNS)  # for all, also for one that was interrupted early
    trained = comparison.trained_length
    starts = range(0, longest.tokens, length)
    past = [trained is not None and min(at + length, longest.tokens) > trained for at in starts]
    print_table(
        console,
        f"Loss (nats per token) by stretch of {length:,} tokens, starting at token",
        ("policy", *(f"{at:,}{'*' * late}" for at, late in zip(starts, past, strict=True))),
        [
            (run.policy, *(_loss(stretch.loss) for stretch in run.curve.stretches(length)))
            for run in comparison.runs
        ],
    )
    if any(past):
        console.print(f"* past the {trained:,} tokens that the model was trained on")


def _loss(loss: float) -> str:
    return "-" if math.isnan(loss) else f"{loss:.3f}"

"""Results as tables: ruled on a terminal, plain columns where output is piped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from transom.evaluate.reading import COLUMNS
from transom.units import plain_flops, plain_size

if TYPE_CHECKING:
    from transom.cli.compare import Comparison

__all__ = [
    "plain_flops",
    "plain_size",
    "print_comparison",
    "print_table",
    "result_console",
    "table_of",
]

HOT = "Hot: in the cache. In all: also the cold blocks outside it, which grow with the text."
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
    if title:
        console.print(title, style="bold")
    console.print(table_of(header, rows, left, ruled=console.is_terminal))


def table_of(
    header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1, *, ruled: bool
) -> Table:
    """A table whose first `left` columns are text and the others figures."""
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


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print everything about every run: the text, what was kept, the cost, the loss, the answer."""
    runs = comparison.runs
    cold = any(run.total_bytes_peak > run.kv_bytes_peak for run in runs)
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
        "Speed and peak memory: keys and values (KV), whole process (RSS)"
        + (f"\n{HOT}" if cold else ""),
        (
            *("policy", "tokens/s", "KV hot" if cold else "KV bytes", "", "KV bound"),
            *(["KV in all"] if cold else []),
            "RSS",
        ),
        [
            (
                run.policy,
                f"{run.tokens_per_second:,.0f}",
                f"{run.kv_bytes_peak:,}",
                plain_size(run.kv_bytes_peak),
                "none" if run.kv_bytes_bound is None else f"{run.kv_bytes_bound:,}",
                *([plain_size(run.total_bytes_peak)] if cold else []),
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

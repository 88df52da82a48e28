"""A comparison as tables: what was kept, speed and memory, the loss along the text, answers."""

from __future__ import annotations

import math

from rich.console import Console

from transom.cli.comparison import Comparison
from transom.cli.tables import print_table
from transom.evaluate.reading import COLUMNS
from transom.units import plain_size

__all__ = ["print_comparison"]

HOT = "Hot: in the cache. In all: also the cold blocks outside it, which grow with the text."


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print all results of all runs."""
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
    length = longest.length(COLUMNS)  # the same for all, also for a run that was interrupted
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

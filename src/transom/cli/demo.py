"""`transom demo`: reads past the trained length of a real model, with and without a bound."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from transom.cli.comparison import Comparison, compare
from transom.cli.comparison_table import print_comparison
from transom.cli.exit_codes import INTERRUPTED
from transom.cli.options import DEVICE, DTYPE, load
from transom.cli.tables import result_console
from transom.evaluate.reference import reference
from transom.outputs import check_picture
from transom.policies import Full, Sinks
from transom.units import plain_size

__all__ = ["demo"]

MODEL = "smollm2"
# One and a half times the trained length: enough to see full attention fail, and little enough to
# be read twice on two cores within three minutes.
TOKENS = 12_288
FIRST_TOKENS = 1_024  # read first, so that there is a table within seconds
PLOT = Path("demo.png")


def demo(dtype: DTYPE = None, device: DEVICE = None) -> None:
    """Read a long text with a small model, with and without a bound.

    Reads the Python language reference, which takes about two minutes on two cores, and draws
    demo.png in the current folder. Shows a first table, of a part of the text, within seconds.
    """
    from transom.evaluate.plot import plot_runs

    check_picture(PLOT)
    loaded = load(MODEL, dtype, device)
    console, text = result_console(), reference()
    for tokens in (FIRST_TOKENS, TOKENS):
        line = f"read {tokens:,} tokens of the Python language reference under each policy"
        print(line, file=sys.stderr)
        comparison = compare(loaded, text, [Sinks(), Full()], limit=tokens)
        if comparison.runs:
            print_comparison(console, comparison)
            console.print(f"\n{in_words(comparison)}\n")
        if comparison.interrupted:
            break
    if comparison.runs:
        plot_runs(comparison.runs, PLOT, comparison.trained_length)
        console.print(f"The loss along the text: {PLOT}")
    if comparison.interrupted:
        raise typer.Exit(INTERRUPTED)


def in_words(comparison: Comparison) -> str:
    """A line per policy: the loss before and after the trained length, and the memory."""
    trained = comparison.trained_length
    lines = []
    for run in comparison.runs:
        losses = f"loss {run.loss:.2f}"
        if trained is not None and run.tokens > trained:
            before, after = run.curve.stretch(0, trained), run.curve.stretch(trained, run.tokens)
            losses = f"loss {before.loss:.2f} up to {trained:,} tokens, {after.loss:.2f} after"
        lines.append(f"{run.policy}: {losses}; KV {plain_size(run.kv_bytes_peak)}")
    return "\n".join(lines)

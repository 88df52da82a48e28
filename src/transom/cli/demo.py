"""`transom demo`: past the trained length of a real model, in a fixed window and without one."""

from __future__ import annotations

import typer

from transom.cli.compare import INTERRUPTED, Comparison, compare
from transom.cli.options import DEVICE, DTYPE, load
from transom.cli.tables import plain_size, print_comparison, result_console
from transom.evaluate.reference import reference
from transom.policies import Full, Sinks

__all__ = ["demo"]

MODEL = "smollm2"
# Half as many again as the model was trained on: enough to see full attention fail, and little
# enough for two cores to read it twice within three minutes.
TOKENS = 12_288
PLOT = "demo.png"


def demo(dtype: DTYPE = None, device: DEVICE = None) -> None:
    """Read a long text with a small model, with and without a bound.

    Reads the Python language reference, for a few minutes on two cores, and saves a picture,
    demo.png, in the current folder.
    """
    from transom.evaluate.plot import plot_runs

    loaded = load(MODEL, dtype, device)
    comparison = compare(loaded, reference(), [Sinks(), Full()], limit=TOKENS)
    console = result_console()
    if comparison.runs:
        print_comparison(console, comparison)
        plot_runs(comparison.runs, PLOT, comparison.trained_length)
        console.print(f"\n{in_words(comparison)}\nThe loss along the text: {PLOT}")
    if comparison.interrupted:
        raise typer.Exit(INTERRUPTED)


def in_words(comparison: Comparison) -> str:
    """The result, a line per policy: loss before and after the trained length, and memory."""
    trained = comparison.trained_length
    lines = []
    for run in comparison.runs:
        losses = f"loss {run.loss:.2f}"
        if trained is not None and run.tokens > trained:
            before, after = run.curve.stretch(0, trained), run.curve.stretch(trained, run.tokens)
            losses = f"loss {before.loss:.2f} up to {trained:,} tokens, {after.loss:.2f} after"
        lines.append(f"{run.policy}: {losses}; KV {plain_size(run.kv_bytes_peak)}")
    return "\n".join(lines)

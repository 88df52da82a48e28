"""`transom evaluate`: what policies cost and keep, measured, as a table and a report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from transom.cli.compare import INTERRUPTED
from transom.cli.evaluation_run import Sweep
from transom.cli.live_table import columns, lines
from transom.cli.options import (
    CHUNK,
    DEVICE,
    DTYPE,
    SEED,
    TEXT,
    depths_of,
    lengths_of,
    named,
    names_of,
    several,
    tokens_option,
    whole,
)
from transom.cli.tables import print_table, result_console
from transom.evaluate.plan import EvaluationPlan, known_tasks

__all__ = ["evaluate"]


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="See `transom models`.")],
    policies: Annotated[
        str, typer.Option(metavar="POLICIES", help="Compare these, separated by ';'.")
    ] = "full;sinks:4,window=1020",
    text: TEXT = None,
    tasks: Annotated[
        str, typer.Option(metavar="NAMES", help=f"Do some of {', '.join(known_tasks())}.")
    ] = ",".join(EvaluationPlan.tasks),
    lengths: Annotated[
        str, typer.Option(metavar="LENGTHS", help="Ask at these lengths of prompts, in tokens.")
    ] = "2k,4k,8k",
    depths: Annotated[
        int, typer.Option(metavar="N", parser=whole, help="Hide things at N places in a prompt.")
    ] = 5,
    trials: Annotated[
        int, typer.Option(metavar="N", parser=whole, help="Try N times at each length and depth.")
    ] = 1,
    recompute: Annotated[
        int | None,
        tokens_option(
            "--recompute", help="Also compute a window of N tokens anew for every token."
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", parser=named, help="Write the report, figures and rows here."
        ),
    ] = Path("report"),
    seed: SEED = 0,
    dtype: DTYPE = None,
    device: DEVICE = None,
    chunk: CHUNK = 512,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure everything again, even what FOLDER has.")
    ] = False,
) -> None:
    """Measure what policies cost and what they keep, as a report.

    Loss along the text, recall by length and depth, memory and speed, all in one HTML page.
    Ctrl-C ends it with the figures so far; the same command then goes on from there.
    """
    plan = EvaluationPlan(
        policies=tuple(several(policies)),
        tasks=tuple(names_of(tasks)),
        lengths=lengths_of(lengths),
        depths=depths_of(depths),
        trials=trials,
        recompute=recompute,
    )
    sweep = Sweep(model, text, out, dtype, device, seed, chunk, fresh)
    book = sweep.read()
    record = sweep.record(book)
    results = sweep.run(plan, sweep.load(), book, record)
    if left_out := len(results.rows) - len(results.compared):
        print(
            f"{left_out:,} of {len(results.rows):,} results are of some policies only, and are "
            "left out of what compares them:",
            file=sys.stderr,
        )
    if results.rows:
        page = sweep.write(results)
        console = result_console()
        print_table(console, "", columns(results.policies), lines(results.policies))
        console.print(f"\n{page}", soft_wrap=True)
    if not results.complete:
        raise typer.Exit(INTERRUPTED)

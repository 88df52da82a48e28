"""`transom evaluate`: what policies cost and keep, measured, as a table and a report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from transom.cli.evaluation_run import EvaluationRun
from transom.cli.exit_codes import INTERRUPTED
from transom.cli.live_table import columns, lines
from transom.cli.options import CHUNK, DEVICE, DTYPE, MODEL, SEED, TEXT, tokens_option
from transom.cli.tables import print_table, result_console
from transom.cli.values import depths_of, lengths_of, named, policies_of, split, whole
from transom.evaluate.plan import EvaluationPlan, known_tasks

__all__ = ["evaluate"]


def evaluate(
    model: MODEL,
    policies: Annotated[
        str, typer.Option(metavar="POLICIES", help="Compare these policies, separated by ';'.")
    ] = "full;sinks:4,window=1020",
    text: TEXT = None,
    tasks: Annotated[
        str,
        typer.Option(
            metavar="NAMES", help=f"Run these tasks, separated by ',': {', '.join(known_tasks())}."
        ),
    ] = ",".join(EvaluationPlan.tasks),
    lengths: Annotated[
        str,
        typer.Option(
            metavar="LENGTHS", help="Test prompts of these lengths in tokens, separated by ','."
        ),
    ] = "2k,4k,8k",
    depths: Annotated[
        int, typer.Option(metavar="N", parser=whole, help="Hide facts at N depths of a prompt.")
    ] = 5,
    trials: Annotated[
        int,
        typer.Option(metavar="N", parser=whole, help="Make N trials at each length and depth."),
    ] = 1,
    recompute: Annotated[
        int | None,
        tokens_option(
            "--recompute", help="Also time a window of N tokens, recomputed for every token."
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
    """Measure what policies cost and what they keep; write a report.

    Measures the loss along the text, recall by length and depth, memory and speed, and writes one
    HTML page. Press Ctrl-C to stop with the figures so far. Run the same command again to go on.
    """
    plan = EvaluationPlan(
        policies=tuple(policies_of(policies)),
        tasks=tuple(split(tasks, ",")),
        lengths=lengths_of(lengths),
        depths=depths_of(depths),
        trials=trials,
        recompute=recompute,
    )
    evaluation = EvaluationRun(model, text, out, dtype, device, seed, chunk, fresh)
    book = evaluation.read_text()
    log = evaluation.open_log(book)
    results = evaluation.measure(plan, evaluation.load_model(), book, log)
    if left_out := len(results.rows) - len(results.compared):
        print(
            f"{left_out:,} of {len(results.rows):,} results exist for some of the policies only; "
            "the comparison leaves them out:",
            file=sys.stderr,
        )
    if results.rows:
        page = evaluation.write_report(results)
        console = result_console()
        print_table(console, "", columns(results.policies), lines(results.policies))
        console.print(f"\n{page}", soft_wrap=True)
    if not results.complete:
        raise typer.Exit(INTERRUPTED)

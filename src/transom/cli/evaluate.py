"""`transom evaluate`: what policies cost and keep, measured, as a table and a report."""

from __future__ import annotations

import hashlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from transom import models
from transom.cli.bars import Bars
from transom.cli.compare import INTERRUPTED
from transom.cli.interrupt import Interrupt
from transom.cli.options import depths_of, lengths_of, names_of, several
from transom.cli.standing import columns, lines
from transom.cli.tables import print_table, result_console, table_of
from transom.cli.text import read_text
from transom.errors import InputError
from transom.evaluate.plan import Plan, State, carry_out, known_tasks
from transom.evaluate.record import Record
from transom.evaluate.reference import reference
from transom.evaluate.results import Results, write_text
from transom.quantities import to_tokens

if TYPE_CHECKING:
    from transom.models import Loaded

__all__ = ["evaluate"]

RECORD, FIGURES, REPORT = "rows.jsonl", "results.json", "report.html"


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="See `transom models`.")],
    policies: Annotated[
        str, typer.Option(metavar="POLICIES", help="To be compared, parted by ';'.")
    ] = "full;sinks:4,window=1020",
    text: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="UTF-8 text, or -; by default Python's reference."),
    ] = None,
    tasks: Annotated[
        str, typer.Option(metavar="NAMES", help=f"Some of {', '.join(known_tasks())}.")
    ] = ",".join(Plan.tasks),
    lengths: Annotated[
        str, typer.Option(metavar="LENGTHS", help="Of prompts, in tokens, such as 2k,4k,8k.")
    ] = "2k,4k,8k",
    depths: Annotated[
        int, typer.Option(metavar="N", help="Places in the prompt to hide things at.")
    ] = 5,
    trials: Annotated[int, typer.Option(metavar="N", help="For each length and depth.")] = 1,
    recompute: Annotated[
        str | None,
        typer.Option(metavar="N", help="Also compute a window of N tokens anew for every token."),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="For the report, the figures and all rows.")
    ] = Path("report"),
    seed: Annotated[int, typer.Option(metavar="N", help="Of all chance.")] = 0,
    dtype: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the weights, such as bfloat16.")
    ] = None,
    chunk: Annotated[int, typer.Option(metavar="N", help="Tokens per forward pass.")] = 512,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure all of it again, also what is there already.")
    ] = False,
) -> None:
    """Measure what policies cost and what they keep, and write a report.

    Loss along the text, recall by length and depth, memory and speed, all in one HTML page.
    Ctrl-C ends it with the figures so far; the same command then goes on from there.
    """
    plan = Plan(
        policies=tuple(several(policies)),
        tasks=tuple(names_of(tasks)),
        lengths=lengths_of(lengths),
        depths=depths_of(depths),
        trials=trials,
        recompute=None if recompute is None else to_tokens(recompute, "--recompute"),
    )
    if chunk < 1:
        raise InputError(f"--chunk is {chunk}; expected at least 1 token.")
    name = "the Python language reference" if text is None else Path(text).name
    book = reference() if text is None else read_text(text)
    settings = {
        "model": model,
        "dtype": dtype or "default",
        "text": name,
        "text_sha256": hashlib.sha256(book.encode()).hexdigest(),
        "seed": seed,
        "chunk": chunk,
    }
    record = _record(out, settings, fresh)
    loaded = models.load(model, dtype=dtype, report=lambda line: print(line, file=sys.stderr))
    complete, interrupted = _measure(plan, loaded, book, name, record, seed, chunk)
    results = Results(
        settings, _facts(loaded, plan), record.rows, tuple(map(str, plan.policies)), complete
    )
    if not results.rows:
        raise typer.Exit(INTERRUPTED)
    _write(out, results)
    console = result_console()
    print_table(console, "", columns(results.policies), lines(results.policies))
    console.print(f"\n{out / REPORT}", soft_wrap=True)
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def _record(out: Path, settings: dict[str, Any], fresh: bool) -> Record:
    """The record in the folder, which is made if need be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if fresh:
            (out / RECORD).unlink(missing_ok=True)
        return Record(out / RECORD, settings)
    except OSError as error:
        raise InputError(
            f"cannot write to {out}: {error.strerror}; expected --out to be a folder."
        ) from error


def _measure(
    plan: Plan, loaded: Loaded, book: str, name: str, record: Record, seed: int, chunk: int
) -> tuple[bool, bool]:
    """Carry the plan out with a table and a bar, until Ctrl-C: whether complete, interrupted."""
    from transom.context import Context  # here, so that the terminal starts without torch
    from transom.evaluate.measures import Bench

    bench = Bench.of(
        lambda policy: Context(loaded.model, loaded.tokenizer, policy, chunk=chunk),
        loaded.tokenizer,
        book,
        seed=seed,
        name=name,
    )
    order = tuple(map(str, plan.policies))

    def standing() -> Any:
        found = Results({}, {}, record.rows, order).policies
        return table_of(columns(found), lines(found), ruled=True)

    with Interrupt() as interrupt, Bars(standing, remaining=True) as bars:
        move = None

        def moved(state: State) -> None:
            nonlocal move
            if move is None:
                move = bars.start("tokens", state.total)
            move(state.done, f"{state.measure.title}  {state.measure.policy}")

        complete = carry_out(plan, bench, record, on_state=moved, stop=lambda: interrupt.requested)
    if interrupt.requested:
        print("interrupted; the figures so far:", file=sys.stderr)
    return complete, interrupt.requested


def _facts(loaded: Loaded, plan: Plan) -> dict[str, Any]:
    from transom.evaluate.facts import facts

    return {**facts(loaded), "command": shlex.join(["transom", *sys.argv[1:]])}


def _write(out: Path, results: Results) -> None:
    from transom.evaluate.report import page

    write_text(out / FIGURES, results.dumps())
    write_text(out / REPORT, page(results))

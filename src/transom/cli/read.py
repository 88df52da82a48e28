"""`transom read`: a text of any length through a model, in a fixed window."""

from __future__ import annotations

import json as json_format
import sys
from pathlib import Path
from typing import Annotated

import typer

from transom.cli.compare import INTERRUPTED, Comparison, compare
from transom.cli.options import DEVICE, DTYPE, check_placement, load, several, tokens_of
from transom.cli.tables import print_comparison, result_console
from transom.cli.text import read_text
from transom.outputs import check_picture, check_target, write_text
from transom.policies import Sinks, parse

__all__ = ["read"]

STDOUT = "-"


def read(
    book: Annotated[
        str, typer.Argument(metavar="FILE", help="UTF-8 text, or - for standard input.")
    ],
    policy: Annotated[
        str, typer.Option(metavar="POLICY", help="Choose what to keep; see `transom policies`.")
    ] = str(Sinks()),
    compare_with: Annotated[
        list[str] | None,
        typer.Option("--compare", metavar="POLICY", help="Compare with others, separated by ';'."),
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Load this model; see `transom models`.")
    ] = "smollm2",
    dtype: DTYPE = None,
    device: DEVICE = None,
    limit: Annotated[
        str | None,
        typer.Option(metavar="N", help="Read only that many tokens, such as 4096 or 4k."),
    ] = None,
    ask: Annotated[str | None, typer.Option(metavar="TEXT", help="Ask this after reading.")] = None,
    max_new_tokens: Annotated[
        str, typer.Option(metavar="N", help="End an answer after N tokens.")
    ] = "128",
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the loss along the text, as PNG.")
    ] = None,
    json: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write all figures; - for standard output.")
    ] = None,
    chunk: Annotated[
        str, typer.Option(metavar="N", help="Feed N tokens per forward pass.")
    ] = "512",
) -> None:
    """Read a text in a fixed window and see what that costs.

    Shows what was kept, speed and memory, and the loss along the text. Ctrl-C ends the reading
    with the figures so far; a second one aborts at once.
    """
    chosen = [parse(policy), *(one for given in compare_with or () for one in several(given))]
    check_placement(dtype, device)
    most = None if limit is None else tokens_of(limit, "--limit")
    longest = tokens_of(max_new_tokens, "--max-new-tokens")
    each = tokens_of(chunk, "--chunk")
    check_picture(plot)
    check_target(None if json in (None, STDOUT) else Path(str(json)))
    if plot is not None:
        from transom.evaluate.plot import plot_runs
    text = read_text(book)
    comparison = compare(
        load(model, dtype, device),
        text,
        chosen,
        limit=most,
        ask=ask,
        chunk=each,
        max_new_tokens=longest,
    )
    if comparison.runs:
        print_comparison(result_console(stderr=json == STDOUT), comparison)
    if json is not None:
        _write_json(comparison, json)
    if plot is not None and comparison.runs:
        plot_runs(comparison.runs, plot, comparison.trained_length)
    if comparison.interrupted:
        raise typer.Exit(INTERRUPTED)


def _write_json(comparison: Comparison, target: str) -> None:
    text = json_format.dumps(comparison.to_json(), indent=2, allow_nan=False) + "\n"
    if target == STDOUT:
        sys.stdout.write(text)
        return
    write_text(Path(target), text)  # at once: a reader never sees half a file

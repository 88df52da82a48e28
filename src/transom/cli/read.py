"""`transom read`: a text of any length through a model, in a fixed window."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transom.cli.comparison import compare
from transom.cli.comparison_table import print_comparison
from transom.cli.exit_codes import INTERRUPTED
from transom.cli.figures import JSON, check_outputs, write_json
from transom.cli.options import (
    CHUNK,
    DEVICE,
    DTYPE,
    MAX_NEW_TOKENS,
    check_placement,
    load,
    tokens_option,
)
from transom.cli.tables import result_console
from transom.cli.text import read_text
from transom.cli.values import STREAM, named, policies_of
from transom.errors import InputError
from transom.policies import Sinks, parse

__all__ = ["read"]


def read(
    book: Annotated[
        str, typer.Argument(metavar="FILE", help="Read this UTF-8 text; - for standard input.")
    ],
    policy: Annotated[
        str,
        typer.Option(metavar="POLICY", help="Choose what to keep; see `transom policies`."),
    ] = str(Sinks()),
    compare_with: Annotated[
        list[str] | None,
        typer.Option(
            "--compare", metavar="POLICY", help="Also read under these, separated by ';'."
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Load this model; see `transom models`.")
    ] = "smollm2",
    dtype: DTYPE = None,
    device: DEVICE = None,
    limit: Annotated[
        int | None,
        tokens_option("--limit", help="Read only the first N tokens, such as 4096 or 4k."),
    ] = None,
    ask: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Ask this question after reading.")
    ] = None,
    max_new_tokens: MAX_NEW_TOKENS = 128,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", parser=named, help="Draw the loss along the text as PNG."),
    ] = None,
    json: JSON = None,
    chunk: CHUNK = 512,
) -> None:
    """Read a text in a fixed window and see what that costs.

    Shows what was kept, speed and memory, and the loss along the text. Press Ctrl-C to stop
    reading and see the figures so far, and again to abort at once.
    """
    chosen = [parse(policy), *(one for given in compare_with or () for one in policies_of(given))]
    if compare_with and len(chosen) == 1:
        raise InputError(f"--compare is {compare_with[0]!r}; expected at least one policy.")
    check_placement(dtype, device)
    check_outputs(json, plot, book)
    if plot is not None:
        from transom.evaluate.plot import plot_runs
    text = read_text(book)
    comparison = compare(
        load(model, dtype, device),
        text,
        chosen,
        limit=limit,
        ask=ask,
        chunk=chunk,
        max_new_tokens=max_new_tokens,
    )
    try:
        if comparison.runs:
            print_comparison(result_console(stderr=json == STREAM), comparison)
    finally:  # also when nobody reads the whole table, as in `transom read ... | head`
        write_json(comparison.to_json(), json)
        if plot is not None and comparison.runs:
            plot_runs(comparison.runs, plot, comparison.trained_length)
    if comparison.interrupted:
        raise typer.Exit(INTERRUPTED)

"""`transom memory replay`: what each eviction policy makes of a trace of requests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from transom.cli.compare import INTERRUPTED
from transom.cli.figures import JSON, check_json, write_json
from transom.cli.options import STREAM, named, number, tokens_option
from transom.cli.progress import Bars
from transom.cli.tables import print_table, result_console
from transom.errors import InputError
from transom.memory.eviction import known
from transom.memory.replay import Prefill, Replayed, read_trace
from transom.memory.replay import replay as run_replay
from transom.memory.replay.picture import as_bars, draw
from transom.outputs import check_picture

__all__ = ["replay"]

DEFAULT = Prefill()


def replay(
    trace: Annotated[
        Path,
        typer.Argument(
            metavar="TRACE",
            parser=named,
            help="Mooncake's .jsonl, or a .csv with hash_ids and input_length, or with key and "
            "size; see the documentation of transom.memory.replay.read_trace.",
        ),
    ],
    eviction: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A policy, also several times; by default all."),
    ] = None,
    capacity: Annotated[
        list[float] | None,
        typer.Option(
            metavar="PART",
            parser=number,
            help="Of what a cache without a limit would hold, also several times; by default 0.1.",
        ),
    ] = None,
    block_tokens: Annotated[int, tokens_option("--block-tokens", help="Tokens of a block.")] = 512,
    token_us: Annotated[
        float,
        typer.Option(
            metavar="US", parser=number, help="Microseconds to compute a token, less attention."
        ),
    ] = DEFAULT.per_token * 1e6,
    pair_ns: Annotated[
        float,
        typer.Option(
            metavar="NS", parser=number, help="Nanoseconds of attention per token and token seen."
        ),
    ] = DEFAULT.per_pair * 1e9,
    load_us: Annotated[
        float,
        typer.Option(
            metavar="US", parser=number, help="Microseconds to load a token that is held."
        ),
    ] = DEFAULT.load * 1e6,
    json: JSON = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", parser=named, help="Draw the hits as bars, as PNG."),
    ] = None,
) -> None:
    """Compare eviction policies on a trace of requests.

    A hit is a token in the longest prefix of its prompt whose blocks are held; the rest of the
    prompt is held from then on. The seconds saved are those of computing the hits less those of
    loading them, block by block; by default for a model of 8 billion weights at 400 TFLOP/s.
    """
    check_picture(plot, trace)
    check_json(json, trace, plot)
    names = list(dict.fromkeys(eviction or known()))
    parts = list(dict.fromkeys(capacity or (0.1,)))
    read = read_trace(trace, Prefill(token_us / 1e6, pair_ns / 1e9, load_us / 1e6), block_tokens)
    if not read.tokens:
        raise InputError(f"{trace}: all prompts are empty; expected at least one token.")
    total = len(read.requests) * (1 + len(names) * len(parts))
    try:
        with Bars() as bars:
            result = run_replay(read, names, parts, bars.start(trace.name, total))
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    try:
        _print(result_console(stderr=json == STREAM), result)
    finally:  # also where nobody reads all of it
        write_json(to_json(result), json)
        if plot is not None:
            draw(result, plot)


def to_json(result: Replayed) -> dict[str, Any]:
    """All figures as JSON values."""
    return {
        "trace": result.trace,
        "requests": result.requests,
        "blocks": result.blocks,
        "infinite_hit": result.infinite_hit,
        "runs": [run._asdict() for run in result.runs],
    }


def _print(console: Console, result: Replayed) -> None:
    print_table(
        console,
        f"{result.trace}: {result.requests:,} requests, {result.blocks:,} different blocks; "
        f"without a limit {result.infinite_hit:.4f} of all tokens are hits, and "
        f"{result.infinite_seconds:,.0f} s are saved",
        ("capacity", "eviction", "block hit", "of infinite", "seconds saved", "of infinite"),
        [
            (
                f"{run.capacity:g}",
                run.eviction,
                f"{run.block_hit:.4f}",
                _share(run.block_hit, result.infinite_hit),
                f"{run.seconds_saved:,.1f}",
                _share(run.seconds_saved, result.infinite_seconds),
            )
            for run in result.runs
        ],
        left=2,
    )
    console.print()
    console.print(as_bars(result), soft_wrap=True)


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "-"

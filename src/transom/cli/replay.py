"""`transom memory replay`: how well each eviction policy serves a trace of requests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from transom.cli.figures import JSON, check_outputs, write_json
from transom.cli.interrupt import all_or_nothing
from transom.cli.options import tokens_option
from transom.cli.progress import ProgressBars
from transom.cli.tables import print_table, result_console
from transom.cli.values import STREAM, named, number
from transom.errors import InputError
from transom.memory.eviction import known
from transom.memory.replay import Prefill, Replayed, read_trace
from transom.memory.replay import replay as run_replay
from transom.memory.replay.picture import as_bars, draw

__all__ = ["replay"]

DEFAULT = Prefill()


def replay(
    trace: Annotated[
        Path,
        typer.Argument(
            metavar="TRACE",
            parser=named,
            help="Replay this: Mooncake's .jsonl, or a .csv with hash_ids and input_length, or "
            "with key and size; see the documentation of transom.memory.replay.read_trace.",
        ),
    ],
    eviction: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Try this policy; repeat for more. [default: all]"),
    ] = None,
    capacity: Annotated[
        list[float] | None,
        typer.Option(
            metavar="PART",
            parser=number,
            help="Hold this part of what a cache without a limit would hold; repeat for more. "
            "[default: 0.1]",
        ),
    ] = None,
    block_tokens: Annotated[
        int, tokens_option("--block-tokens", help="Put N tokens into a block.")
    ] = 512,
    token_us: Annotated[
        float,
        typer.Option(
            metavar="US",
            parser=number,
            help="Charge US microseconds to compute a token, without attention.",
        ),
    ] = DEFAULT.per_token * 1e6,
    pair_ns: Annotated[
        float,
        typer.Option(
            metavar="NS",
            parser=number,
            help="Charge NS nanoseconds of attention for each token that a token sees.",
        ),
    ] = DEFAULT.per_pair * 1e9,
    load_us: Annotated[
        float,
        typer.Option(
            metavar="US",
            parser=number,
            help="Charge US microseconds to load a token that is held.",
        ),
    ] = DEFAULT.load * 1e6,
    json: JSON = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", parser=named, help="Draw the hits as bars, into a PNG file."),
    ] = None,
) -> None:
    """Compare eviction policies on a trace of requests.

    A hit is a token in the longest prefix of its prompt whose blocks are held. The rest of the
    prompt is stored after the request. The seconds saved are the time to compute the hits, less
    the time to load them, block by block. The defaults are for a model of 8 billion weights at
    400 TFLOP/s.
    """
    check_outputs(json, plot, trace)
    names = list(dict.fromkeys(eviction or known()))
    parts = list(dict.fromkeys(capacity or (0.1,)))
    read = read_trace(trace, Prefill(token_us / 1e6, pair_ns / 1e9, load_us / 1e6), block_tokens)
    if not read.tokens:
        raise InputError(f"{trace}: all prompts are empty; expected at least one token.")
    total = len(read.requests) * (1 + len(names) * len(parts))
    with all_or_nothing(), ProgressBars() as bars:
        result = run_replay(read, names, parts, bars.start(trace.name, total))
    try:
        _print(result_console(stderr=json == STREAM), result)
    finally:  # also when nobody reads all of the output
        write_json(to_json(result), json)
        if plot is not None:
            draw(result, plot)


def to_json(result: Replayed) -> dict[str, object]:
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
        f"without a limit {result.infinite_hit:.4f} of all tokens are hits, which save "
        f"{result.infinite_seconds:,.0f} s",
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

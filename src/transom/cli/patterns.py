"""`transom patterns`: what an attention pattern looks like, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from transom.cli.options import tokens_option
from transom.cli.tables import print_table, result_console
from transom.cli.values import check_choice, named, split, whole
from transom.errors import InputError, MissingExtraError
from transom.outputs import check_picture
from transom.policies import ModelShape
from transom.units import plain_flops, plain_size

if TYPE_CHECKING:
    from transom.attention.patterns import Pattern
    from transom.attention.patterns.cells import Cells

__all__ = ["patterns"]

CELLS = 32  # rows and columns of a sketch
ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2}


def patterns(
    pattern: Annotated[
        str,
        typer.Argument(
            metavar="PATTERN",
            help="Show this policy, such as sinks:4,window=508, or this expression, such as "
            "'causal() & (sliding(512) | global_tokens(4))'; separate several by ';'.",
        ),
    ],
    length: Annotated[int, tokens_option("--length", help="Show N queries and N keys.")] = 4096,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", parser=named, help="Draw the pattern as PNG.")
    ] = None,
    heads: Annotated[
        int, typer.Option(metavar="N", parser=whole, help="Assume N query heads.")
    ] = 9,
    kv_heads: Annotated[
        int, typer.Option(metavar="N", parser=whole, help="Assume N heads of keys and values.")
    ] = 3,
    head_dim: Annotated[
        int, typer.Option(metavar="N", parser=whole, help="Assume N numbers per head and token.")
    ] = 64,
    dtype: Annotated[
        str,
        typer.Option(
            metavar="NAME", help=f"Assume keys and values stored as one of {', '.join(ITEMSIZE)}."
        ),
    ] = "float32",
) -> None:
    """Show which keys each query sees, and what attention then costs.

    The sketch has a row for some queries and a column for some keys: # all are visible, + some,
    . none. The costs are for one layer, next to full causal attention. Visible pairs are counted,
    not estimated.
    """
    shape = _shape(heads, kv_heads, head_dim, dtype)
    check_picture(plot)
    read = _reader()
    chosen = [read(text) for text in split(pattern, ";")]
    if not chosen or (plot is not None and len(chosen) > 1):
        raise InputError(
            f"PATTERN is {pattern!r}, {len(chosen)} patterns; expected "
            f"{'at least one' if plot is None else 'one, because --plot draws one'}."
        )

    from transom.attention.patterns.picture import as_text, cells_of

    shown = [cells_of(one, length, CELLS) for one in chosen]
    if plot is not None:
        chosen[0].draw(plot, length)
    console = result_console()
    for one, cells in zip(chosen, shown, strict=True):
        console.print(f"{one!r}, {length:,} tokens", style="bold", soft_wrap=True)
        console.print(as_text(one, cells) + "\n", soft_wrap=True)
    _print_costs(console, chosen, shown, length, shape, dtype)
    if plot is not None:
        console.print(f"\n{plot}", soft_wrap=True)


def _reader() -> Callable[[str], Pattern]:
    try:
        from transom.attention.patterns import parse_pattern
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError(
            "patterns need torch, which is not installed: pip install 'transom[torch]'"
        ) from error
    return parse_pattern


def _shape(heads: int, kv_heads: int, head_dim: int, dtype: str) -> ModelShape:
    for option, value in (("heads", heads), ("kv-heads", kv_heads), ("head-dim", head_dim)):
        if value < 1:
            raise InputError(f"--{option} is {value}; expected at least 1.")
    if heads % kv_heads:
        raise InputError(
            f"--heads is {heads} and --kv-heads {kv_heads}; expected a multiple of --kv-heads, "
            "because each head of keys and values serves as many query heads."
        )
    check_choice("--dtype", dtype, list(ITEMSIZE))
    return ModelShape(1, heads, kv_heads, head_dim, ITEMSIZE[dtype])


def _print_costs(
    console: Console,
    chosen: list[Pattern],
    shown: list[Cells],
    length: int,
    shape: ModelShape,
    dtype: str,
) -> None:
    names = [repr(one) for one in chosen]
    pairs = [int(cells.visible.sum()) for cells in shown]
    causal = length * (length + 1) // 2
    print_table(
        console,
        "",
        ("pattern", "length", "visible pairs", "of all pairs", "of causal pairs"),
        [
            (name, f"{length:,}", f"{count:,}", f"{count / length**2:.2%}", f"{count / causal:.2%}")
            for name, count in zip(names, pairs, strict=True)
        ],
    )
    console.print()
    each = 4 * shape.heads * shape.head_dim  # FLOPs of a pair: a multiply-add for score and sum
    print_table(
        console,
        f"One layer of {shape.heads} heads of {shape.head_dim}; keys and values (KV) of "
        f"{shape.kv_heads} in {dtype}",
        ("pattern", "attention", "full causal", "KV of last query", "all KV"),
        [
            (
                name,
                plain_flops(count * each),
                plain_flops(causal * each),
                plain_size(_last(one, length) * shape.token_bytes),
                plain_size(length * shape.token_bytes),
            )
            for name, count, one in zip(names, pairs, chosen, strict=True)
        ],
    )


def _last(pattern: Pattern, length: int) -> int:
    """How many keys the last query sees."""
    return int(pattern.mask(1, length).sum())

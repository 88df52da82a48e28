"""Patterns to look at: as characters, and as a picture; queries go down, keys across."""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap
from typing import Any

from transom.attention.patterns.base import Pattern
from transom.attention.patterns.cells import Cells, cells
from transom.errors import InputError, MissingExtraError
from transom.outputs import save_picture
from transom.validation import whole_number

__all__ = ["draw", "shown_length", "sketch"]

SHORTEST, LONGEST = 16, 1 << 16  # what is shown unasked; even dilated patterns take seconds there
LONGEST_COUNTED = 1 << 31  # 64 bits hold the pairs of so many queries and keys
FINEST = 512  # cells of a picture, each way
WIDEST = 1024  # pixels that they take, at most
RULED = 64  # up to so many cells, lines between them help

DPI = 128  # a power of two, so that inches times it are whole pixels
LEFT, RIGHT, BOTTOM, ABOVE, LINE = 108, 136, 28, 64, 30  # pixels around the cells
NOTHING, SOME, ALL = "#f1f2f4", "#bfdcee", "#004c7a"


def shown_length(pattern: Pattern, length: int | None = None) -> int:
    """How many queries and keys to show: `length`, or as many as show what it looks like.

    Raises:
        InputError: when it is no length, or the pattern is made for fewer tokens.
    """
    if length is None:
        length = min(max(pattern.scale, SHORTEST), LONGEST)
        return length if pattern.limit is None else min(length, pattern.limit)
    length = whole_number("pattern", "length", length, 1, maximum=LONGEST_COUNTED)
    if pattern.limit is not None and length > pattern.limit:
        raise InputError(
            f"length is {length} and {pattern!r} is made for {pattern.limit} tokens; expected at "
            "most those."
        )
    return length


def sketch(pattern: Pattern, length: int | None = None, cells: int = 32) -> str:
    """A line of characters per block of queries: `#` all visible, `+` some of it, `.` nothing.

    Exact. Where the pattern differs by head or by row of the batch, the first is shown and a line
    below says so.

    Args:
        length: of queries and keys; by default as many as show what the pattern looks like.
        cells: characters each way, at most; up to that length, each is one position.
    """
    return as_text(pattern, cells_of(pattern, length, cells))


def cells_of(pattern: Pattern, length: int | None, most: int) -> Cells:
    """What `sketch` and `draw` show of a pattern."""
    most = whole_number("pattern", "cells", most, 1, unit="cells")
    return cells(pattern, shown_length(pattern, length), most)


def as_text(pattern: Pattern, shown: Cells) -> str:
    """See `sketch`."""
    levels = (shown.visible > 0).int() + (shown.visible == shown.size).int()
    lines = ["".join(".+#"[level] for level in row) for row in levels.tolist()]
    return "\n".join([*lines, *_only(pattern)])


def draw(
    pattern: Pattern, path: Path | str, length: int | None = None, title: str | None = None
) -> None:
    """Save a picture as PNG: the darker a cell, the more of its pairs are visible.

    Args:
        length: of queries and keys; by default as many as show what the pattern looks like.
        title: instead of the pattern's own spelling.

    Raises:
        MissingExtraError: when matplotlib is not installed.
        InputError: when it cannot be written, or `path` has the suffix of another kind of file.
    """
    try:
        from matplotlib.colors import LinearSegmentedColormap
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"pictures of patterns need {error.name}, which is not installed: "
            "pip install 'transom[cli]'"
        ) from error
    length = shown_length(pattern, length)
    shown = cells_of(pattern, length, FINEST)
    count = len(shown.visible)
    # A whole number of pixels for every cell, so that equal cells look equal.
    span = max(1, WIDEST // count) * count
    width = LEFT + span + (RIGHT if shown.side > 1 else BOTTOM)
    spelled = repr(pattern) if title is None else title
    lines = wrap(spelled, width // 13, max_lines=4, placeholder=" ...")
    height = LINE * (len(lines) + 1) + ABOVE + span + BOTTOM
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    style: dict[str, Any] = {"parse_math": False, "x": LEFT / width}
    for at, line in enumerate(lines):
        place = 1 - LINE * (at + 0.8) / height
        figure.text(s=line, y=place, fontsize=11, fontweight="bold", **style)
    of_all = f"{length:,} tokens, {shown.fraction:.2%} of all pairs visible"
    place = 1 - LINE * (len(lines) + 0.8) / height
    note = ", ".join([of_all, *_only(pattern)])
    figure.text(s=note, y=place, fontsize=9.5, color="0.35", **style)

    shades = LinearSegmentedColormap.from_list("visible", [SOME, ALL])
    axes = figure.add_axes((LEFT / width, BOTTOM / height, span / width, span / height))
    image = axes.imshow(
        (shown.visible / shown.size).numpy(),
        cmap=shades.with_extremes(under=NOTHING),
        vmin=1e-12,  # so that only nothing is under it
        vmax=1,
        interpolation="nearest",
        extent=(0, count, count, 0),
    )
    _label(axes, length, shown.side, count)
    if shown.side > 1:
        left = (LEFT + span + 24) / width
        bar = figure.add_axes((left, BOTTOM / height, 16 / width, span / height))
        figure.colorbar(image, cax=bar, format="{x:.0%}").outline.set_visible(False)
        bar.tick_params(length=3, color="0.6", labelsize=8)
        bar.set_ylabel(f"visible in a cell of {shown.side} x {shown.side}", fontsize=8)
    save_picture(figure, path)


def _label(axes: Any, length: int, side: int, count: int) -> None:
    """Positions along the edges, and lines between cells where these are large."""
    step = 1 << (-(-length // 8) - 1).bit_length()  # a power of two, for some eight of them
    positions = range(0, length, step)
    ticks, names = [(at + 0.5) / side for at in positions], [f"{at:,}" for at in positions]
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("key", fontsize=9)
    axes.set_ylabel("query", fontsize=9)
    axes.tick_params(length=3, color="0.6", labelsize=8)
    axes.spines[:].set_visible(False)
    if count <= RULED:
        axes.set_xticks(range(count + 1), minor=True)
        axes.set_yticks(range(count + 1), minor=True)
        axes.tick_params(which="minor", length=0)
        axes.grid(which="minor", color="white", linewidth=min(1.0, 32 / count))


def _only(pattern: Pattern) -> list[str]:
    """Words for what is shown where a pattern differs by row or head."""
    of = {"row": pattern.batch, "head": pattern.heads}
    return [f"{name} 0 of {count}" for name, count in of.items() if count is not None]

"""Patterns drawn, in characters and as a picture: queries go down, keys go across."""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from transom.attention.patterns.cells import Cells, cells
from transom.attention.patterns.mask_function import MaskFunction
from transom.errors import InputError, MissingExtraError
from transom.outputs import save_picture
from transom.validation import whole_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw", "shown_length", "sketch"]

SHORTEST, LONGEST = 16, 1 << 16  # default lengths; a dilated pattern takes seconds at the longest
LONGEST_COUNTED = 1 << 31  # the pairs of so many queries and keys still fit into 64 bits
FINEST = 512  # cells of a picture, each way
WIDEST = 1024  # pixels that the cells take, at most
RULED = 64  # up to so many cells have lines between them

DPI = 128  # a power of two, so that pixels / DPI * DPI is exact
LEFT, RIGHT, BOTTOM, ABOVE, LINE = 108, 136, 28, 64, 30  # pixels around the cells
NOTHING, SOME, ALL = "#f1f2f4", "#bfdcee", "#004c7a"


def shown_length(pattern: MaskFunction, length: int | None = None) -> int:
    """How many queries and keys to show: `length`, or enough to show the pattern's shape.

    Raises:
        InputError: if `length` is not a length, or the pattern is made for fewer tokens.
    """
    if length is None:
        length = min(max(pattern.scale, SHORTEST), LONGEST)
        return length if pattern.limit is None else min(length, pattern.limit)
    length = whole_number("pattern", "length", length, 1, maximum=LONGEST_COUNTED)
    if pattern.limit is not None and length > pattern.limit:
        raise InputError(
            f"length is {length} and {pattern!r} is made for {pattern.limit} tokens; expected at "
            f"most {pattern.limit}."
        )
    return length


def sketch(pattern: MaskFunction, length: int | None = None, cells: int = 32) -> str:
    """A line of characters per block of queries: `#` all visible, `+` some, `.` none.

    Exact. If heads or batch rows differ, the first is shown, and a line below says so.

    Args:
        length: of queries and keys; by default enough to show the pattern's shape.
        cells: most characters each way. Up to that length, each character is one position.
    """
    return as_text(pattern, cells_of(pattern, length, cells))


def cells_of(pattern: MaskFunction, length: int | None, most: int) -> Cells:
    """The cells that `sketch` and `draw` show."""
    most = whole_number("pattern", "cells", most, 1, unit="cells")
    return cells(pattern, shown_length(pattern, length), most)


def as_text(pattern: MaskFunction, shown: Cells) -> str:
    """Cells as the characters of `sketch`."""
    levels = (shown.visible > 0).int() + (shown.visible == shown.size).int()
    lines = ["".join(".+#"[level] for level in row) for row in levels.tolist()]
    return "\n".join([*lines, *_only(pattern)])


def draw(
    pattern: MaskFunction, path: Path | str, length: int | None = None, title: str | None = None
) -> None:
    """Save a picture as PNG: the darker a cell, the more of its pairs are visible.

    Args:
        length: of queries and keys; by default enough to show the pattern's shape.
        title: by default the pattern as text.

    Raises:
        MissingExtraError: if matplotlib is not installed.
        InputError: if the file cannot be written, or `path` has another suffix than `.png`.
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
    # Each cell has a whole number of pixels, so that equal cells look equal.
    span = max(1, WIDEST // count) * count
    width = LEFT + span + (RIGHT if shown.side > 1 else BOTTOM)
    spelled = repr(pattern) if title is None else title
    lines = wrap(spelled, width // 13, max_lines=4, placeholder=" ...")
    height = LINE * (len(lines) + 1) + ABOVE + span + BOTTOM
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    left = LEFT / width
    for at, line in enumerate(lines):
        place = 1 - LINE * (at + 0.8) / height
        figure.text(left, place, line, fontsize=11, fontweight="bold", parse_math=False)
    of_all = f"{length:,} tokens, {shown.fraction:.2%} of all pairs visible"
    place = 1 - LINE * (len(lines) + 0.8) / height
    note = ", ".join([of_all, *_only(pattern)])
    figure.text(left, place, note, fontsize=9.5, color="0.35", parse_math=False)

    shades = LinearSegmentedColormap.from_list("visible", [SOME, ALL])
    axes = figure.add_axes((left, BOTTOM / height, span / width, span / height))
    image = axes.imshow(
        (shown.visible / shown.size).numpy(),
        cmap=shades.with_extremes(under=NOTHING),
        vmin=1e-12,  # only 0 is below it
        vmax=1,
        interpolation="nearest",
        extent=(0, count, count, 0),
    )
    _label(axes, length, shown.side, count)
    if shown.side > 1:
        right = (LEFT + span + 24) / width
        bar = figure.add_axes((right, BOTTOM / height, 16 / width, span / height))
        figure.colorbar(image, cax=bar, format="{x:.0%}").outline.set_visible(False)
        bar.tick_params(length=3, color="0.6", labelsize=8)
        bar.set_ylabel(f"visible in a cell of {shown.side} x {shown.side}", fontsize=8)
    save_picture(figure, path)


def _label(axes: Axes, length: int, side: int, count: int) -> None:
    """Write positions along the edges; draw lines between cells if there are few."""
    step = 1 << (-(-length // 8) - 1).bit_length()  # a power of two, so about eight are written
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


def _only(pattern: MaskFunction) -> list[str]:
    """Which batch row and head are shown, if they differ."""
    of = {"row": pattern.batch, "head": pattern.heads}
    return [f"{name} 0 of {count}" for name, count in of.items() if count is not None]

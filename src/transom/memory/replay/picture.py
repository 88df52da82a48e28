"""What came of a trace, as bars of text and as a picture."""

from __future__ import annotations

from pathlib import Path

from transom.errors import MissingExtraError
from transom.memory.replay.run import Replayed
from transom.outputs import save_picture

__all__ = ["as_bars", "draw"]

COLUMNS = 50  # of the longest bar
# Told apart with any colour vision (Okabe and Ito, https://jfly.uni-koeln.de/color/).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000")


def as_bars(replayed: Replayed) -> str:
    """Hits as bars of `#`, by capacity; what a cache without a limit hits fills the line of dots.

    >>> from transom.memory.replay import Replay
    >>> run = Replay("lru", capacity=0.1, block_hit=0.2, seconds_saved=1.0)
    >>> print(as_bars(Replayed("t", 9, 9, 0.4, 2.0, (run,))))
    0.1  lru  #########################.........................  0.2000
    """
    wide = max(len(run.eviction) for run in replayed.runs)
    high = max(len(f"{run.capacity:g}") for run in replayed.runs)
    lines = []
    for run in replayed.runs:
        full = round(COLUMNS * run.block_hit / replayed.infinite_hit) if run.block_hit else 0
        bar = "#" * full + "." * (COLUMNS - full)
        lines.append(f"{run.capacity:<{high}g}  {run.eviction:<{wide}}  {bar}  {run.block_hit:.4f}")
    return "\n".join(lines)


def draw(replayed: Replayed, path: Path | str) -> None:
    """Draw the hits of every policy as a PNG file at `path`: bars, a group for each capacity.

    Raises:
        MissingExtraError: when matplotlib is not installed.
        InputError: when it cannot be written, or `path` has the suffix of another kind of file.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"plots need {error.name}, which is not installed: pip install 'transom[cli]'"
        ) from error
    names = list(dict.fromkeys(run.eviction for run in replayed.runs))
    parts = list(dict.fromkeys(run.capacity for run in replayed.runs))
    hits = {(run.eviction, run.capacity): run.block_hit for run in replayed.runs}
    figure = Figure(figsize=(9, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    width = 0.85 / len(names)
    for at, name in enumerate(names):
        places = [group + (at - (len(names) - 1) / 2) * width for group in range(len(parts))]
        heights = [hits[name, part] for part in parts]
        bars = axes.bar(places, heights, width, label=name, color=COLOURS[at % len(COLOURS)])
        if len(hits) <= 16:
            axes.bar_label(bars, fmt="{:.3f}", fontsize=7, padding=2)
    axes.axhline(replayed.infinite_hit, color="0.35", linestyle="--", linewidth=1)
    axes.annotate(
        f"without a limit: {replayed.infinite_hit:.3f}",
        (1, replayed.infinite_hit),
        xycoords=("axes fraction", "data"),
        xytext=(-5, 4),
        textcoords="offset points",
        ha="right",
        color="0.35",
    )
    axes.set_xticks(range(len(parts)), [f"{part:g}" for part in parts])
    axes.set_xlabel("capacity, as a part of what a cache without a limit holds")
    axes.set_ylabel("part of prompt tokens that were held")
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", frameon=False, ncols=4)
    save_picture(figure, path)

"""A picture of the loss along a text, one line per policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transom.errors import MissingExtraError
from transom.evaluate.reading import ReadingResult
from transom.outputs import save_picture

try:
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    raise MissingExtraError(
        f"plots need {error.name}, which is not installed: pip install 'transom[cli]'"
    ) from error

__all__ = ["plot_runs"]

# Distinct with any colour vision (Okabe and Ito, https://jfly.uni-koeln.de/color/).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
POINTS = 64  # at most, per line
SMOOTHED = 5  # points averaged into each point of a bold line


def plot_runs(
    runs: Sequence[ReadingResult], path: Path | str, trained_length: int | None = None
) -> None:
    """Draw the loss of every run along the text as a PNG file at `path`.

    Faint lines are means over equal stretches, bold lines the same smoothed. A dashed line marks
    `trained_length` where the text is longer.

    Raises:
        InputError: when the file cannot be written, or `path` has the suffix of another kind.
    """
    figure = Figure(figsize=(9, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for index, run in enumerate(runs):
        colour = COLOURS[index % len(COLOURS)]
        points = run.curve.stretches(run.curve.length(POINTS))
        middles = [(point.start + point.stop) / 2 for point in points]
        losses = np.array([point.loss for point in points])
        axes.plot(middles, losses, color=colour, linewidth=1, alpha=0.25)
        label = f"{run.policy}   {run.kv_bytes_peak / 1e6:,.1f} MB of keys and values"
        if run.total_bytes_peak > run.kv_bytes_peak:
            label += f" hot, {run.total_bytes_peak / 1e6:,.1f} MB in all"
        axes.plot(middles, _smooth(losses), color=colour, linewidth=2.2, label=label)
    axes.set_xlabel("tokens read")
    axes.set_ylabel("loss (nats per token)")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlim(0, max(run.tokens for run in runs))
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", frameon=False)
    if trained_length is not None and any(run.tokens > trained_length for run in runs):
        axes.axvline(trained_length, color="0.35", linestyle="--", linewidth=1)
        axes.annotate(
            f"trained on {trained_length:,} tokens",
            (trained_length, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-5, -4),
            textcoords="offset points",
            ha="right",
            va="top",
            color="0.35",
        )
    save_picture(figure, path)


def _smooth(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centred means, over fewer points at both ends."""
    reach = SMOOTHED // 2
    return np.array(
        [np.mean(losses[max(0, i - reach) : i + reach + 1]) for i in range(len(losses))]
    )

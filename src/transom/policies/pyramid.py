"""Budgets that decrease from the first layer to the last."""

from __future__ import annotations

from itertools import pairwise

__all__ = ["pyramid"]

STEEPNESS = 20  # the paper's beta: the last layer has a twentieth of the average


def pyramid(size: int, layers: int, smallest: int) -> tuple[int, ...]:
    """Tokens for each of `layers` layers; they decrease evenly, and their mean is exactly `size`.

    Lower layers attend broadly, upper ones to few tokens. The last layer has a twentieth of `size`,
    but at least `smallest`, and the pyramid is flatter then.

    Source: PyramidKV, https://arxiv.org/abs/2406.02069.

    >>> pyramid(100, 4, smallest=8)
    (192, 131, 69, 8)
    """
    least = min(size, max(smallest, size // STEEPNESS))
    steps = max(1, layers - 1)
    # The running totals are rounded, not the shares, so that the sum is exact.
    totals = [0.0]
    for layer in range(layers):
        share = 2 * size - least - 2 * (size - least) * layer / steps if layers > 1 else size
        totals.append(totals[-1] + share)
    ends = [round(total) for total in totals]
    return tuple(b - a for a, b in pairwise(ends))

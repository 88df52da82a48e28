"""Budgets that fall from the first layer to the last."""

from __future__ import annotations

from itertools import pairwise

__all__ = ["pyramid"]

STEEPNESS = 20  # the paper's beta: the last layer has a twentieth of the average


def pyramid(size: int, layers: int, smallest: int) -> tuple[int, ...]:
    """Tokens for each of `layers` layers, falling evenly, `size` on average exactly.

    Lower layers attend broadly and upper ones to few tokens. Where a twentieth of `size` would be
    less than `smallest`, the pyramid is as much flatter.

    Source: PyramidKV, https://arxiv.org/abs/2406.02069.

    >>> pyramid(100, 4, smallest=8)
    (192, 131, 69, 8)
    """
    least = min(size, max(smallest, size // STEEPNESS))
    steps = max(1, layers - 1)
    # Rounded at the cumulated total, so that the whole is exact.
    totals = [0.0]
    for layer in range(layers):
        share = 2 * size - least - 2 * (size - least) * layer / steps if layers > 1 else size
        totals.append(totals[-1] + share)
    ends = [round(total) for total in totals]
    return tuple(b - a for a, b in pairwise(ends))

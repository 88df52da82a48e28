"""Writing windows into arrays: a strided copy wherever windows are regular."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from transom.windows.batch import Batch
from transom.windows.cut import Cut

__all__ = ["Rows", "fill", "score_pattern"]

ROWS_AT_ONCE = 256  # gathered together: few enough for them to stay in a core's cache
RUN = 8  # windows in a row that are worth a strided copy of their own


class Rows(NamedTuple):
    """Which tokens each of some windows has; an element per window.

    Attributes:
        start: int64, index of the first token in the array of ids.
        length: int64, how many tokens.
        opening: bool, whether no window of the same document came before.
    """

    start: NDArray[np.int64]
    length: NDArray[np.int64]
    opening: NDArray[np.bool_]

    def of(self, which: Any) -> Rows:
        """Those that an index names."""
        return Rows(self.start[which], self.length[which], self.opening[which])

    def padding(self, cut: Cut) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many ids of padding stand before, and how many ids that are none follow."""
        used = self.length + (cut.size - cut.content)
        before = (cut.size - used) * (cut.padding_side == "left")
        return before, used


def score_pattern(cut: Cut, opening: bool) -> NDArray[np.uint8]:
    """The score mask of a full window, `(size,)`; `opening` for the first of a document."""
    pattern = np.zeros(cut.size, dtype=np.uint8)
    covered = 1 if opening else cut.overlap
    pattern[cut.lead + covered : cut.lead + cut.content] = 1
    return pattern


def fill(cut: Cut, ids: NDArray[Any], rows: Rows, starts: NDArray[np.int64], batch: Batch) -> None:
    """Write the windows `rows` of `ids` into `batch`, which has as many rows.

    `starts` are the indexes in `ids` at which documents start; only used where packed.
    """
    full = rows.length == cut.content
    _copy(ids, rows.start, full, batch.ids[:, cut.lead : cut.lead + cut.content], cut)
    batch.attention_mask[...] = 1
    batch.score_mask[...] = score_pattern(cut, opening=False)
    batch.score_mask[rows.opening] = score_pattern(cut, opening=True)
    if cut.bos_id is not None:
        batch.ids[:, 0] = cut.bos_id
    if cut.eos_id is not None:
        batch.ids[:, -1] = cut.eos_id
    partial = np.flatnonzero(~full)
    for at in range(0, len(partial), ROWS_AT_ONCE):
        _gather(cut, ids, rows, partial[at : at + ROWS_AT_ONCE], batch)
    if batch.position_ids is not None:
        _separate(cut, rows, starts, batch.score_mask, batch.position_ids)


def _copy(
    ids: NDArray[Any],
    start: NDArray[np.int64],
    full: NDArray[np.bool_],
    out: NDArray[Any],
    cut: Cut,
) -> None:
    """Copy the tokens of full windows."""
    if not full.any():
        return
    every = sliding_window_view(ids, cut.content)
    regular = full[1:] & full[:-1] & (np.diff(start) == cut.stride)
    runs = [0, *(np.flatnonzero(~regular) + 1).tolist(), len(start)]
    if RUN * (len(runs) - 2) <= len(start):
        for a, b in pairwise(runs):
            if full[a]:
                out[a:b] = every[start[a] : start[b - 1] + 1 : cut.stride]
        return
    where = np.flatnonzero(full)
    for at in range(0, len(where), ROWS_AT_ONCE):
        some = where[at : at + ROWS_AT_ONCE]
        out[some] = every[start[some]]


def _gather(
    cut: Cut, ids: NDArray[Any], rows: Rows, which: NDArray[np.int64], batch: Batch
) -> None:
    """Write windows that are not full, id by id."""
    rows = rows.of((which, None))
    before, used = rows.padding(cut)
    column = np.arange(cut.size) - before  # of what is not padding
    token = column - cut.lead
    real = (token >= 0) & (token < rows.length)
    values = np.where(real, ids[np.where(real, rows.start + token, 0)], cut.pad_id)
    if cut.bos_id is not None:
        values[column == 0] = cut.bos_id
    if cut.eos_id is not None:
        values[column == used - 1] = cut.eos_id
    batch.ids[which] = values
    batch.attention_mask[which] = (column >= 0) & (column < used)
    batch.score_mask[which] = real & (token >= np.where(rows.opening, 1, cut.overlap))


def _separate(
    cut: Cut,
    rows: Rows,
    starts: NDArray[np.int64],
    score_mask: NDArray[Any],
    position_ids: NDArray[Any],
) -> None:
    """Where a document starts inside a window, positions start over and nothing predicts it."""
    before, used = rows.padding(cut)
    lowest = np.searchsorted(starts, rows.start)
    inside = np.searchsorted(starts, rows.start + rows.length) - lowest
    row = np.repeat(np.arange(len(inside)), inside)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(inside) - inside, inside)
    token = starts[lowest[row] + nth] - rows.start[row]
    column = before[row] + cut.lead + token
    score_mask[row, column] = 0
    begins = np.zeros(score_mask.shape, dtype=np.int64)
    begins[np.arange(len(before)), before] = before
    inner = token > 0  # a document that starts with the window does so with its special id
    begins[row[inner], column[inner]] = column[inner]
    np.maximum.accumulate(begins, axis=1, out=begins)
    columns = np.arange(cut.size)
    real = (columns >= before[:, None]) & (columns < (before + used)[:, None])
    position_ids[...] = (columns - begins) * real

"""Writes windows into arrays: by a strided copy wherever windows are regular."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from transom.tokens import TokenIds, TokenRuns
from transom.windows.batch import Batch, Mask
from transom.windows.cut import Cut

__all__ = ["WindowRows", "fill", "score_pattern"]

ROWS_AT_ONCE = 256  # gathered together; few enough to stay in the cache of a core
RUN = 8  # so many windows in a row are worth a strided copy


class WindowRows(NamedTuple):
    """Which tokens some windows have; one element per window.

    Attributes:
        start: int64, index of the first token among the ids.
        length: int64, how many tokens.
        opening: bool, whether it is the first window of its document.
    """

    start: NDArray[np.int64]
    length: NDArray[np.int64]
    opening: NDArray[np.bool_]

    def of(self, which: slice | NDArray[np.integer]) -> WindowRows:
        """The windows that an index selects."""
        return WindowRows(self.start[which], self.length[which], self.opening[which])

    def padding(self, cut: Cut) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Per window: how many ids of padding come first, and how many other ids follow."""
        used = self.length + (cut.size - cut.content)
        before = (cut.size - used) * (cut.padding_side == "left")
        return before, used


@lru_cache(maxsize=64)
def score_pattern(cut: Cut, opening: bool) -> NDArray[np.uint8]:
    """The score mask of a full window, `(size,)`, read-only; `opening` for a document's first."""
    pattern = np.zeros(cut.size, dtype=np.uint8)
    covered = 1 if opening else cut.overlap
    pattern[cut.lead + covered : cut.lead + cut.content] = 1
    pattern.flags.writeable = False
    return pattern


def fill(
    cut: Cut,
    tokens: TokenRuns,
    rows: WindowRows,
    batch: Batch,
    edges: NDArray[np.int64],
    first: int = 0,
) -> None:
    """Write the windows `rows` of `tokens` into `batch`, which has as many rows.

    Args:
        cut: how the windows are cut.
        tokens: the ids.
        rows: which tokens each window has.
        batch: the arrays to write to.
        edges: the positions at which documents start, then where the last one stops; used only
            when packed.
        first: position of the first of `tokens`; used only when packed.
    """
    full = rows.length == cut.content
    _copy(cut, tokens, rows, full, batch.ids[:, cut.lead : cut.lead + cut.content])
    batch.attention_mask[...] = 1
    batch.score_mask[...] = score_pattern(cut, opening=False)
    if np.count_nonzero(rows.opening):
        batch.score_mask[rows.opening] = score_pattern(cut, opening=True)
    if cut.bos_id is not None:
        batch.ids[:, 0] = cut.bos_id
    if cut.eos_id is not None:
        batch.ids[:, -1] = cut.eos_id
    some = np.count_nonzero(full) < len(full)
    partial = np.flatnonzero(~full) if some else np.empty(0, dtype=np.intp)
    if 2 * len(partial) >= len(full):  # then it is faster to trim all of them
        for at in range(0, len(full), ROWS_AT_ONCE):
            _trim(cut, rows, slice(at, at + ROWS_AT_ONCE), batch)
    else:
        for at in range(0, len(partial), ROWS_AT_ONCE):
            _trim(cut, rows, partial[at : at + ROWS_AT_ONCE], batch)
    if batch.position_ids is not None:
        _separate(cut, rows, edges, first, batch.score_mask, batch.position_ids)


def _copy(
    cut: Cut, tokens: TokenRuns, rows: WindowRows, full: NDArray[np.bool_], out: TokenIds
) -> None:
    """Write the tokens; the rest of a window that is not full stays undefined."""
    regular = rows.start[1:] - rows.start[:-1] == cut.stride
    regular &= full[1:]
    regular &= full[:-1]
    if RUN * (len(regular) - np.count_nonzero(regular)) > len(full):
        _gather(cut, tokens, rows, out)
        return
    runs = [0, *(np.flatnonzero(~regular) + 1).tolist(), len(full)]
    for a, b in pairwise(runs):
        every = None
        if a < b and full[a]:
            stop = int(rows.start[b - 1]) + 1
            every = tokens.strided(int(rows.start[a]), stop, cut.stride, cut.content)
        if every is not None:
            out[a:b] = every
        else:
            _gather(cut, tokens, rows.of(slice(a, b)), out[a:b])


def _gather(cut: Cut, tokens: TokenRuns, rows: WindowRows, out: TokenIds) -> None:
    content = cut.content
    where = rows.start
    if cut.padding_side == "left":  # then the tokens of a short window end where the window ends
        where = where + rows.length - content
    for at in range(0, len(out), ROWS_AT_ONCE):
        some = slice(at, at + ROWS_AT_ONCE)
        left_out = tokens.gather(where[some], content, out[some])
        for row in () if left_out is None else (left_out + at).tolist():
            first, length = int(rows.start[row]), int(rows.length[row])
            column = first - int(where[row])
            out[row, column : column + length] = tokens.read(first, first + length)


def _trim(cut: Cut, rows: WindowRows, which: slice | NDArray[np.integer], batch: Batch) -> None:
    """Write padding and special ids beside the tokens of some windows, and the masks."""
    rows = rows.of(which)
    before, used = rows.padding(cut)
    # A small dtype makes the comparisons faster; they take most of the time here.
    small = np.dtype(np.int16 if 2 * cut.size <= np.iinfo(np.int16).max else np.int64)
    columns = np.arange(cut.size, dtype=small)
    begin = (before + cut.lead).astype(small)[:, None]
    real = columns < begin + rows.length.astype(small)[:, None]
    shown = real
    if cut.padding_side == "left" or cut.lead:
        real = real & (columns >= begin)
    if cut.content < cut.size or cut.padding_side == "left":
        shown = columns < (before + used).astype(small)[:, None]
        shown &= columns >= begin - cut.lead
    ids, score = batch.ids[which], batch.score_mask[which]
    np.copyto(ids, cut.pad_id, where=~real)
    row = np.arange(len(ids))
    if cut.bos_id is not None:
        ids[row, before] = cut.bos_id
    if cut.eos_id is not None:
        ids[row, before + used - 1] = cut.eos_id
    if cut.padding_side == "left":
        covered = np.where(rows.opening, 1, cut.overlap).astype(small)[:, None]
        score[...] = real & (columns >= begin + covered)
    else:  # the pattern of a full window, cut short
        np.multiply(score, real, out=score)
    if not isinstance(which, slice):  # with a slice, these are views
        batch.ids[which], batch.score_mask[which] = ids, score
    batch.attention_mask[which] = shown


def _separate(
    cut: Cut,
    rows: WindowRows,
    edges: NDArray[np.int64],
    first: int,
    score_mask: Mask,
    position_ids: NDArray[np.integer],
) -> None:
    """Restart positions where a document starts inside a window; do not score its first token."""
    before, used = rows.padding(cut)
    starts = edges[:-1]
    start = rows.start + first
    lowest = np.searchsorted(starts, start)
    inside = np.searchsorted(starts, start + rows.length) - lowest
    row = np.repeat(np.arange(len(inside)), inside)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(inside) - inside, inside)
    token = starts[lowest[row] + nth] - start[row]
    column = before[row] + cut.lead + token
    score_mask[row, column] = 0
    inner = token > 0  # a document at the start of the window counts from its special id
    # The column from which positions count, and the place from which on that column applies.
    origin = np.concatenate([before, column[inner]]).astype(np.int32)
    place = np.concatenate(
        [np.arange(len(inside)) * cut.size, row[inner] * cut.size + column[inner]]
    )
    order = np.argsort(place, kind="stable")
    lengths = np.diff(place[order], append=position_ids.size)
    columns = np.arange(cut.size, dtype=np.int32)
    position_ids[...] = columns - np.repeat(origin[order], lengths).reshape(-1, cut.size)
    partial = np.flatnonzero(used < cut.size)
    if len(partial):
        stop = (before + used)[partial, None]
        real = (columns >= before[partial, None]) & (columns < stop)
        position_ids[partial] = position_ids[partial] * real

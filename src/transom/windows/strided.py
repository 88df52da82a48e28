"""The windows of an array of tokens, made when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from transom.errors import InputError
from transom.tokens import TokenRuns
from transom.validation import known_keywords
from transom.windows.batch import Batch, TokenWindow, writable
from transom.windows.cut import Cut
from transom.windows.fill import ROWS_AT_ONCE, WindowRows, fill, score_pattern

__all__ = ["TokenWindows"]

DOCUMENTS_AT_ONCE = 1 << 16  # counted together: what it takes to do so stays small


@known_keywords
class TokenWindows(Sequence[TokenWindow]):
    """The windows of some tokens; nothing is computed or copied before it is asked for.

    Args:
        cut: how they are cut.
        ids: `(tokens,)` token ids, in one array or in several that read as one.
        edges: `(documents + 1,)` int64, ascending: the positions at which documents start, and
            where the last one stops. Documents without tokens have no windows.
        first: position of the first of `ids`.
        origin: where packed windows are counted from; the start of the first document by default.
        skipped: how many windows, from the first one there on, are not among these.
        first_document: number of the first document.
        offsets: `(tokens, 2)` int64, where in the text each token starts and stops.
    """

    def __init__(
        self,
        cut: Cut,
        ids: NDArray[Any] | TokenRuns,
        edges: NDArray[np.int64],
        *,
        first: int = 0,
        origin: int | None = None,
        skipped: int = 0,
        first_document: int = 0,
        offsets: NDArray[np.int64] | None = None,
    ) -> None:
        self.cut = cut
        self._ids = ids if isinstance(ids, TokenRuns) else TokenRuns([ids], ids.dtype)
        self._first = first
        self._edges = edges
        self._skipped = skipped
        self._first_document = first_document
        self._offsets = offsets
        # What is cut by itself: each document, or all of them as one.
        origin = int(edges[0]) if origin is None else origin
        self._units = np.array([origin, edges[-1]]) if cut.packed else edges
        self._numbers_before = _counted(cut, self._units)

    def __len__(self) -> int:
        return int(self._numbers_before[-1]) - self._skipped

    @overload
    def __getitem__(self, index: int) -> TokenWindow: ...

    @overload
    def __getitem__(self, index: slice) -> list[TokenWindow]: ...

    def __getitem__(self, index: int | slice) -> TokenWindow | list[TokenWindow]:
        if isinstance(index, slice):
            return list(self._each(np.arange(len(self))[index]))
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} was asked for; there are {len(self)}.")
        return next(self._each(np.array([index % len(self)])))

    def __iter__(self) -> Iterator[TokenWindow]:
        return self._each(np.arange(len(self)))

    def __repr__(self) -> str:
        return f"<{len(self):,} windows of {self.cut.size:,} ids, {self.cut.stride:,} apart>"

    def buffers(self, windows: int) -> Batch:
        """New arrays for that many windows: ids in int32 (or int64), masks in uint8."""
        return self._buffers(windows, np.promote_types(self._ids.dtype, np.int32))

    def batch(self, which: Any, out: Any = None) -> Batch:
        """Some of the windows as arrays `(windows, size)`.

        Args:
            which: a slice, or a 1-D array of numbers of windows, in any order.
            out: a `Batch`, or as many arrays or CPU tensors, with at least as many rows; by
                default new ones.

        Returns:
            The rows of `out` that were written, as arrays.

        Raises:
            IndexError: when there is no such window.
            InputError: when buffers are too small, or of a dtype that cannot hold the ids.
        """
        numbers = self._numbers(which)
        if out is None:
            out = self.buffers(len(numbers))
        batch = writable(out, len(numbers), self.cut.size, self.cut.packed, self._ids.dtype)
        self._fill(numbers, batch)
        return batch

    def origins(self, which: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """`start` and `document` of some windows, `(windows,)` int64 each; see `TokenWindow`."""
        start = self._rows(self._numbers(which)).start + self._first
        return start, self._document(start)

    def spans(self, which: Any) -> NDArray[np.int64]:
        """Where in the text some windows start and stop, `(windows, 2)` int64.

        Raises:
            InputError: when no offsets were given.
        """
        if self._offsets is None:
            raise InputError("there are no offsets; expected them from add_tokens(offsets=...).")
        start, length, _ = self._rows(self._numbers(which))
        return np.stack([self._offsets[start, 0], self._offsets[start + length - 1, 1]], axis=1)

    def _numbers(self, which: Any) -> NDArray[np.int64]:
        if isinstance(which, slice):
            return np.arange(*which.indices(len(self)))
        numbers = np.asarray(which)
        if numbers.ndim == 1 and not numbers.size:
            return np.empty(0, dtype=np.int64)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
            raise InputError(
                f"windows were asked for by {numbers.dtype} of shape {numbers.shape}; expected a "
                "slice or whole numbers in one dimension."
            )
        numbers = numbers.astype(np.int64)
        if numbers.view(np.uint64).max() >= len(self):  # as which those below 0 are very large
            raise IndexError(
                f"windows {numbers.min()} to {numbers.max()} were asked for; there are {len(self)}."
            )
        return numbers

    def _rows(self, numbers: NDArray[np.int64]) -> WindowRows:
        if self._skipped:
            numbers = numbers + self._skipped
        if len(self._units) == 2:
            nth, (origin, end) = numbers, self._units
        else:
            unit = np.searchsorted(self._numbers_before, numbers, side="right") - 1
            nth = numbers - self._numbers_before[unit]
            origin, end = self._units[unit], self._units[unit + 1]
        start = nth * self.cut.stride
        start += origin
        length = np.minimum(self.cut.content, end - start)
        if self._first:
            start -= self._first
        return WindowRows(start, length, nth == 0)

    def _document(self, start: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._edges, start, side="right") - 1 + self._first_document

    def _buffers(self, windows: int, ids: np.dtype[Any]) -> Batch:
        shape = windows, self.cut.size
        masks = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
        positions = np.empty(shape, np.int32) if self.cut.packed else None
        return Batch(np.empty(shape, ids), *masks, positions)

    def _fill(self, numbers: NDArray[np.int64], batch: Batch) -> None:
        fill(self.cut, self._ids, self._rows(numbers), batch, self._edges, self._first)

    def _each(self, numbers: NDArray[np.int64]) -> Iterator[TokenWindow]:
        """Windows one by one: views of the tokens where nothing needs to be put beside them."""
        cut = self.cut
        opening, later = score_pattern(cut, opening=True), score_pattern(cut, opening=False)
        ones = np.ones(cut.size, dtype=np.uint8)
        _freeze(ones)
        plain = cut.content == cut.size and not cut.packed
        for at in range(0, len(numbers), ROWS_AT_ONCE):
            some = numbers[at : at + ROWS_AT_ONCE]
            rows = self._rows(some)
            positions = rows.start + self._first
            made = (rows.length < cut.content) | (not plain)
            batch = self._buffers(int(made.sum()), self._ids.dtype)
            self._fill(some[made], batch)
            _freeze(*batch)
            arrays = zip(*(item for item in batch if item is not None), strict=True)
            for index, (start, document) in enumerate(
                zip(positions.tolist(), self._document(positions).tolist(), strict=True)
            ):
                if made[index]:
                    row = rows.of(slice(index, index + 1))
                    ids, attention, score, *position_ids = next(arrays)
                    yield TokenWindow(
                        ids,
                        attention,
                        score,
                        start,
                        document,
                        self._placed_offsets(row),
                        *position_ids,
                        *((self._cu_seqlens(row),) if cut.packed else ()),
                    )
                else:
                    here = slice(start - self._first, start - self._first + cut.size)
                    score = opening if rows.opening[index] else later
                    offsets = None if self._offsets is None else self._offsets[here]
                    ids = self._ids.read(here.start, here.stop)
                    yield TokenWindow(ids, ones, score, start, document, offsets)

    def _placed_offsets(self, row: WindowRows) -> NDArray[np.int64] | None:
        if self._offsets is None:
            return None
        placed = np.zeros((self.cut.size, 2), dtype=np.int64)
        at = int(row.padding(self.cut)[0][0]) + self.cut.lead
        start, length = int(row.start[0]), int(row.length[0])
        placed[at : at + length] = self._offsets[start : start + length]
        _freeze(placed)
        return placed

    def _cu_seqlens(self, row: WindowRows) -> NDArray[np.int32]:
        before, used = (int(item[0]) for item in row.padding(self.cut))
        start = int(row.start[0]) + self._first
        a, b = np.searchsorted(self._edges, (start + 1, start + int(row.length[0])))
        inner = np.unique(self._edges[a:b]) - start
        return np.array([before, *(inner + before + self.cut.lead), before + used], dtype=np.int32)


def _counted(cut: Cut, edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many windows come before each document, and how many there are."""
    before = np.zeros(len(edges), dtype=np.int64)
    for at in range(0, len(edges) - 1, DOCUMENTS_AT_ONCE):
        some = edges[at : at + DOCUMENTS_AT_ONCE + 1]
        before[at + 1 : at + len(some)] = cut.count(np.diff(some))
    return np.cumsum(before, out=before)


def _freeze(*arrays: NDArray[Any] | None) -> None:
    for array in arrays:
        if array is not None:
            array.flags.writeable = False

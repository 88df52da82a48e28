"""Several arrays of ids that read as one array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from transom.tokens.ids import TokenIds

__all__ = ["TokenRuns"]


class TokenRuns:
    """Token ids in several arrays anywhere in memory, by their position over all of them.

    Stretches are gathered from all arrays in one indexing operation, through a view that starts at
    the array lowest in memory and reaches into the highest. Memory between the arrays is never
    touched: `gather` takes only stretches that lie within one array, and the view itself is never
    returned.

    Args:
        arrays: contiguous, all of one dtype; empty ones are ignored.
        dtype: their dtype.

    >>> tokens = TokenRuns([np.arange(3), np.arange(3, 8)], dtype=np.dtype(np.int64))
    >>> tokens.read(2, 5)
    array([2, 3, 4])
    >>> out = np.zeros((3, 2), dtype=np.int64)
    >>> tokens.gather(np.array([6, 2, 0]), 2, out), out.tolist()
    (array([1]), [[6, 7], [0, 0], [0, 1]])
    """

    def __init__(self, arrays: Sequence[TokenIds], dtype: np.dtype[np.integer]) -> None:
        self.dtype = dtype
        held = [array for array in arrays if len(array)]
        lengths = np.array([len(array) for array in held], dtype=np.int64)
        self._arrays = held
        self._stops = np.cumsum(lengths)
        self._starts = self._stops - lengths
        self._single = len(held) == 1
        self._stretches: TokenIds | None = None
        if held:
            addresses = np.array([array.ctypes.data for array in held], dtype=np.int64)
            lowest = int(addresses.argmin())
            at = (addresses - addresses[lowest]) // dtype.itemsize
            self._lowest = held[lowest]
            self._reach = int((at + lengths).max())
            self._shift = at - self._starts  # from a position to an index in the view

    def __len__(self) -> int:
        return int(self._stops[-1]) if self._arrays else 0

    def read(self, start: int, stop: int) -> TokenIds:
        """The ids at `start` to `stop`: a view when they lie within one array, else a copy."""
        if self._single:
            return self._arrays[0][start:stop]
        if start >= stop:
            return np.empty(0, dtype=self.dtype)
        first, last = np.searchsorted(self._stops, (start, stop - 1), side="right").tolist()
        pieces = [
            self._arrays[run][max(0, start - at) : stop - at]
            for run, at in enumerate(self._starts[first : last + 1].tolist(), start=first)
        ]
        if len(pieces) == 1:
            return pieces[0]
        joined = np.concatenate(pieces)
        joined.flags.writeable = False
        return joined

    def strided(self, start: int, stop: int, stride: int, length: int) -> TokenIds | None:
        """A view `(n, length)` of the stretches from `start`, `start + stride`, ... below `stop`.

        None unless they all lie within one array.
        """
        run = int(np.searchsorted(self._stops, start, side="right"))
        count = -(-(stop - start) // stride)
        reached = start + (count - 1) * stride + length
        if run == len(self._arrays) or reached > self._stops[run]:
            return None
        array, at = self._arrays[run], int(self._starts[run])
        step = self.dtype.itemsize
        return as_strided(
            array[start - at :], (count, length), (stride * step, step), writeable=False
        )

    def gather(
        self, start: NDArray[np.int64], length: int, out: TokenIds
    ) -> NDArray[np.int64] | None:
        """Write `length` ids from each position in `start` to the rows of `out`.

        Returns:
            The rows that were not written, as their stretch does not lie within one array; None
            when all were written.
        """
        if not len(start):
            return None
        if self._single:
            # As unsigned numbers, negative ones are very large.
            if self._reach >= length and start.view(np.uint64).max() <= self._reach - length:
                out[...] = self._every(length)[start]
                return None
            index, torn = start, start + length > self._stops[0]
        else:
            run = np.searchsorted(self._stops, start, side="right")
            run[run == len(self._arrays)] -= 1
            index, torn = start + self._shift[run], start + length > self._stops[run]
        torn |= start < 0
        if not np.count_nonzero(torn):
            out[...] = self._every(length)[index]
            return None
        whole = np.flatnonzero(~torn)
        if len(whole):
            out[whole] = self._every(length)[index[whole]]
        return np.flatnonzero(torn)

    def _every(self, length: int) -> TokenIds:
        """A view of all stretches of a length; the last one is kept, as making it takes a while."""
        every = self._stretches
        if every is None or every.shape[1] != length:
            step = self.dtype.itemsize
            shape = self._reach - length + 1, length
            every = as_strided(self._lowest, shape, (step, step), writeable=False)
            self._stretches = every
        return every

"""Free stretches of a file or of memory: best fit, joined with their neighbours when freed."""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

__all__ = ["ALIGNMENT", "Extents", "aligned"]

ALIGNMENT = 64  # bytes: a cache line, so that what is stored starts on one


def aligned(size: int) -> int:
    """`size` rounded up to whole cache lines, the least that is ever taken.

    >>> aligned(1), aligned(64), aligned(65)
    (64, 64, 128)
    """
    return -(-size // ALIGNMENT) * ALIGNMENT


class Extents:
    """The free stretches. Bytes are taken from the start of the smallest one that is large enough.

    With sizes from 2 to 64 KB, uniform or logarithmic, taken and freed at random, 2 % are unused.

    Attributes:
        total: bytes free.

    >>> free = Extents()
    >>> free.give(0, 256)
    >>> free.take(64), free.take(64), free.take(256)
    (0, 64, None)
    >>> free.give(0, 64); free.give(64, 64); list(free)
    [(0, 256)]
    """

    __slots__ = ("_of_size", "_sizes", "_spans", "_starts", "total")

    def __init__(self) -> None:
        self.total = 0
        # Each stretch is in two arrays, by start and by size; dictionaries take ten times as much.
        self._starts = array("Q")  # sorted
        self._spans = array("Q")  # the sizes of these
        self._sizes = array("Q")  # sorted, and by their starts where they are equal
        self._of_size = array("Q")  # the starts of these

    @property
    def largest(self) -> int:
        """Bytes of the largest stretch."""
        return self._sizes[-1] if self._sizes else 0

    @property
    def nbytes(self) -> int:
        """Bytes of memory that this bookkeeping takes."""
        return sum(map(sys.getsizeof, (self._starts, self._spans, self._sizes, self._of_size)))

    def take(self, size: int) -> int | None:
        """Take `size` bytes; where they start, None when no stretch is that large."""
        at = bisect_left(self._sizes, size)
        if at == len(self._sizes):
            return None
        start = self._of_size[at]
        self._take(bisect_left(self._starts, start), start, size)
        return start

    def take_scattered(self, size: int, most: int) -> list[tuple[int, int]] | None:
        """Take `size` bytes in at most `most` stretches, the largest first.

        Returns:
            The stretches, `(start, size)`; None when so many are not enough.
        """
        if sum(self._sizes[-most:]) < size:
            return None
        taken = []
        while size:
            piece = min(size, self.largest)
            start = self.take(piece)
            assert start is not None
            taken.append((start, piece))
            size -= piece
        return taken

    def take_at(self, start: int, size: int) -> bool:
        """Take these bytes; False when not all of them are free."""
        at = bisect_right(self._starts, start) - 1
        if at < 0 or start + size > self._starts[at] + self._spans[at]:
            return False
        self._take(at, start, size)
        return True

    def give(self, start: int, size: int) -> None:
        """Free these bytes, which were taken or are new."""
        self.total += size
        starts, spans = self._starts, self._spans
        at = bisect_left(starts, start)
        after = at < len(starts) and starts[at] == start + size
        before = at > 0 and starts[at - 1] + spans[at - 1] == start
        if after and before:
            size += spans[at]
            self._unlist(at)
            del starts[at], spans[at]
        if before:
            at -= 1
            start = starts[at]
        if before or after:
            size += spans[at]
            self._unlist(at)
            starts[at], spans[at] = start, size
        else:
            starts.insert(at, start)
            spans.insert(at, size)
        self._list(start, size)

    def size_ending_at(self, end: int) -> int:
        """Bytes of the stretch that ends at `end`; 0 without one."""
        at = bisect_left(self._starts, end) - 1
        if at < 0 or self._starts[at] + self._spans[at] != end:
            return 0
        return self._spans[at]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The stretches, `(start, size)`, by their starts."""
        return iter(list(zip(self._starts, self._spans, strict=True)))

    def _take(self, at: int, start: int, size: int) -> None:
        """Take bytes of stretch number `at`; those before and behind them stay free."""
        self.total -= size
        first, end = self._starts[at], self._starts[at] + self._spans[at]
        self._unlist(at)
        after = end - start - size
        if start > first:
            self._spans[at] = start - first
            self._list(first, start - first)
            if after:
                self._starts.insert(at + 1, start + size)
                self._spans.insert(at + 1, after)
        elif after:
            self._starts[at], self._spans[at] = start + size, after
        else:
            del self._starts[at], self._spans[at]
        if after:
            self._list(start + size, after)

    def _list(self, start: int, size: int) -> None:
        """Add a stretch to the array by size."""
        at = self._by_size(start, size)
        self._sizes.insert(at, size)
        self._of_size.insert(at, start)

    def _unlist(self, at: int) -> None:
        by_size = self._by_size(self._starts[at], self._spans[at])
        del self._sizes[by_size], self._of_size[by_size]

    def _by_size(self, start: int, size: int) -> int:
        """Where a stretch is, or belongs, in the array by size."""
        low = bisect_left(self._sizes, size)
        if low == len(self._sizes) or self._sizes[low] != size:
            return low
        return bisect_left(self._of_size, start, low, bisect_right(self._sizes, size, low))

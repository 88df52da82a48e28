"""Free stretches of a line of bytes: best fit, joined with their neighbours when given back."""

from __future__ import annotations

import sys
from bisect import bisect_left, insort
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
    """Which stretches are free. Takes the smallest that is large enough, from its start.

    Uniform and logarithmic sizes from 2 to 64 KB, coming and going at random, leave 2 % unused.

    Attributes:
        total: bytes free.

    >>> free = Extents()
    >>> free.give(0, 256)
    >>> free.take(64), free.take(64), free.take(256)
    (0, 64, None)
    >>> free.give(0, 64); free.give(64, 64); list(free)
    [(0, 256)]
    """

    __slots__ = ("_by_size", "_ends", "_starts", "total")

    def __init__(self) -> None:
        self.total = 0
        self._by_size: list[tuple[int, int]] = []  # (size, start), sorted
        self._starts: dict[int, int] = {}  # start -> size
        self._ends: dict[int, int] = {}  # end -> start

    @property
    def largest(self) -> int:
        """Bytes of the largest stretch."""
        return self._by_size[-1][0] if self._by_size else 0

    @property
    def nbytes(self) -> int:
        """Bytes of memory that this bookkeeping takes."""
        tables = (self._by_size, self._starts, self._ends)
        return sum(map(sys.getsizeof, tables)) + (56 + 3 * 32) * len(self._by_size)

    def take(self, size: int) -> int | None:
        """Where `size` bytes, which are now taken, start; None when no stretch is that large."""
        at = bisect_left(self._by_size, (size, -1))
        if at == len(self._by_size):
            return None
        found, start = self._by_size.pop(at)
        del self._starts[start]
        self.total -= size
        rest = found - size
        if rest:
            self._ends[start + found] = start + size
            self._starts[start + size] = rest
            insort(self._by_size, (rest, start + size))
        else:
            del self._ends[start + found]
        return start

    def take_scattered(self, size: int, most: int) -> list[tuple[int, int]] | None:
        """At most `most` stretches, `(start, size)`, that are `size` bytes together, now taken.

        The largest first; None when so many are not enough.
        """
        if sum(found for found, _ in self._by_size[-most:]) < size:
            return None
        taken = []
        while size:
            largest, _ = self._by_size[-1]
            piece = min(size, largest)
            start = self.take(piece)
            assert start is not None
            taken.append((start, piece))
            size -= piece
        return taken

    def take_at(self, start: int, size: int) -> bool:
        """Take these very bytes; False when they are not all free."""
        whole = self._starts.get(start)
        stretches = self._by_size if whole is None else [(whole, start)]
        for found, at in stretches:
            if at <= start and start + size <= at + found:
                self._cut(found, at)
                self.total -= found
                if start > at:
                    self.give(at, start - at)
                if start + size < at + found:
                    self.give(start + size, at + found - start - size)
                return True
        return False

    def give(self, start: int, size: int) -> None:
        """These bytes are free again; they must have been taken, or be new."""
        self.total += size
        end = start + size
        after = self._starts.get(end)
        if after is not None:
            self._cut(after, end)
            end += after
        before = self._ends.get(start)
        if before is not None:
            self._cut(start - before, before)
            start = before
        self._starts[start] = end - start
        self._ends[end] = start
        insort(self._by_size, (end - start, start))

    def size_ending_at(self, end: int) -> int:
        """Bytes of the stretch that ends there; 0 without one."""
        start = self._ends.get(end)
        return 0 if start is None else end - start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The stretches, `(start, size)`, by their starts."""
        return iter(sorted(self._starts.items()))

    def _cut(self, size: int, start: int) -> None:
        del self._starts[start]
        del self._ends[start + size]
        self._by_size.pop(bisect_left(self._by_size, (size, start)))

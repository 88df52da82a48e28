"""A buffer of token ids in a small dtype, appended at one end and dropped at the other."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import DTypeLike

from transom.tokens.ids import TokenIds
from transom.validation import known_keywords

__all__ = ["TokenBuffer"]

SMALLEST = 16  # spare rows of a new allocation


class BufferState(TypedDict):
    """A buffer as it is pickled."""

    rows: TokenIds
    first: int


@known_keywords
class TokenBuffer:
    """Rows appended at one end and dropped at the other, in constant amortised time.

    A row is a token id, or a few numbers about a token. Rows that a view shows are never
    overwritten, so views do not change. Not safe for use from several threads.

    Attributes:
        first: position of the oldest row held: how many rows were dropped before it.

    >>> buffer = TokenBuffer(np.uint16)
    >>> buffer.append(np.array([5, 6, 7])); buffer.drop(1)
    >>> buffer.rows, buffer.first, len(buffer)
    (array([6, 7], dtype=uint16), 1, 2)
    """

    __slots__ = ("_start", "_stop", "_storage", "first")

    def __init__(self, dtype: DTypeLike, width: tuple[int, ...] = ()) -> None:
        self._storage: TokenIds = np.empty((0, *width), dtype=dtype)
        self._start = self._stop = 0
        self.first = 0

    def __len__(self) -> int:
        return self._stop - self._start

    @property
    def nbytes(self) -> int:
        """Bytes allocated: at most about twice the most rows ever held at once."""
        return self._storage.nbytes

    @property
    def rows(self) -> TokenIds:
        """All rows, oldest first: a read-only view."""
        view = self._storage[self._start : self._stop]
        view.flags.writeable = False
        return view

    def append(self, rows: TokenIds) -> None:
        """Append rows that fit the dtype; numpy would wrap others silently."""
        stop = self._stop + len(rows)
        if stop > len(self._storage):
            stop = self._reallocate(len(rows))
        self._storage[self._stop : stop] = rows
        self._stop = stop

    def drop(self, count: int) -> None:
        """Drop the `count` oldest rows."""
        self._start += count
        self.first += count

    def keep(self, rows: TokenIds, newest: int) -> None:
        """Append, then drop all but the `newest` rows; rows that would not stay are not copied."""
        held = len(self)
        skipped = max(0, len(rows) - newest)
        self.drop(min(held, max(0, held + len(rows) - newest)))
        self.first += skipped
        self.append(rows[skipped:])

    def _reallocate(self, coming: int) -> int:
        held = self.rows
        size = len(held) + coming + max(SMALLEST, len(held))
        self._storage = np.empty((size, *held.shape[1:]), dtype=held.dtype)
        self._storage[: len(held)] = held
        self._start, self._stop = 0, len(held)
        return self._stop + coming

    def __getstate__(self) -> BufferState:
        return {"rows": np.array(self.rows), "first": self.first}

    def __setstate__(self, state: BufferState) -> None:
        self._storage = state["rows"]
        self._start, self._stop = 0, len(self._storage)
        self.first = state["first"]

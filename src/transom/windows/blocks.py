"""Cuts ids that come as a stream, or in one array, into blocks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transom.tokens import TokenIds
from transom.validation import IdsLike

__all__ = ["Block", "array_blocks", "stream_blocks"]

SIZE = 8192  # ids per block

Block = tuple[IdsLike, ArrayLike | None]  # ids, and their offsets if there are any


def stream_blocks(ids: Iterator[int]) -> Iterator[Block]:
    """Blocks of an iterator, which is read as they are taken.

    >>> [len(block) for block, _ in stream_blocks(iter(range(10_000)))]
    [8192, 1808]
    """
    while block := list(islice(ids, SIZE)):
        yield block, None


def array_blocks(ids: TokenIds, offsets: NDArray[np.int64] | None) -> Iterator[Block]:
    """Blocks of an array `(tokens,)`, with their part of `offsets`, `(tokens, 2)`."""
    for at in range(0, len(ids), SIZE):
        block = slice(at, at + SIZE)
        yield ids[block], None if offsets is None else offsets[block]

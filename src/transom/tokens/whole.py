"""The ids of a text of any size, in memory for a stretch of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transom.errors import InputError
from transom.tokens.backends.reference import rust_tokenizer
from transom.tokens.text import tokenize_text

__all__ = ["as_whole", "in_chunks", "text_pieces"]

LONG = 65_536  # characters; for shorter texts, preparing an `Encoder` takes longer than tokenizing


def text_pieces(content: Any) -> tuple[Iterator[str] | None, Any]:
    """The pieces of `content` if it is a text or an iterator of texts, else None; and `content`.

    The first item of an iterator is taken to find out; the iterator returned includes it.
    """
    if isinstance(content, str):
        return iter((content,)), content
    if isinstance(content, Iterator):
        first = next(content, None)
        content = chain(() if first is None else (first,), content)
        return (content, content) if isinstance(first, str) else (None, content)
    return None, content


def as_whole(
    pieces: Iterator[str], encode: Callable[[str], Sequence[int]], tokenizer: object
) -> Iterator[NDArray[np.int64]]:
    """The ids that `encode` would give for all pieces together, in arrays `(tokens,)`.

    Args:
        pieces: a text, cut anywhere.
        encode: turns text into ids, with special ids before or after them.
        tokenizer: the tokenizer that `encode` uses. The text is held and tokenized as a whole only
            when it is short, or when this neither is nor has a `tokenizers.Tokenizer`.

    Raises:
        InputError: when a piece is not text; the ids of earlier pieces may have been yielded.
    """
    held: list[str] = []
    size = 0
    for piece in pieces:
        if not isinstance(piece, str):
            raise InputError(f"a piece of text is {type(piece).__name__}; expected str throughout.")
        held.append(piece)
        size += len(piece)
        if size >= LONG:
            around = _around(encode, tokenizer)
            if around is None:
                held += pieces
                break
            before, behind = around
            yield np.array(before, dtype=np.int64)
            for ids in tokenize_text(rust_tokenizer(tokenizer), chain(held, pieces)):
                yield ids.astype(np.int64)
            yield np.array(behind, dtype=np.int64)
            return
    yield np.array(encode("".join(held)), dtype=np.int64)


def in_chunks(arrays: Iterable[NDArray[np.int64]], size: int) -> Iterator[NDArray[np.int64]]:
    """The same ids in arrays of `size`; the last one may be smaller.

    >>> [ids.tolist() for ids in in_chunks([np.arange(3), np.arange(4)], 5)]
    [[0, 1, 2, 0, 1], [2, 3]]
    """
    held: list[NDArray[np.int64]] = []
    count = 0
    for array in arrays:
        held.append(array)
        count += len(array)
        if count >= size:
            joined = np.concatenate(held)
            stop = count - count % size
            yield from np.split(joined[:stop], stop // size)
            held, count = [joined[stop:]], count - stop
    if count:
        yield np.concatenate(held)


def _around(
    encode: Callable[[str], Sequence[int]], tokenizer: object
) -> tuple[Sequence[int], Sequence[int]] | None:
    """The special ids that `encode` puts before and after a text; None when not known."""
    try:
        plain: list[int] = rust_tokenizer(tokenizer).encode("a", add_special_tokens=False).ids
    except InputError:
        return None
    if not plain:  # a vocabulary without the letter
        return None
    made = list(encode("a"))
    for start in range(len(made) - len(plain) + 1):
        if made[start : start + len(plain)] == plain:
            return made[:start], made[start + len(plain) :]
    return None

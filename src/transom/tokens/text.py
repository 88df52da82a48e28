"""Ids of a text that comes in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from numpy.typing import NDArray

from transom.tokens.tokenizer import IncrementalTokenizer

__all__ = ["tokenize_text"]


def tokenize_text(tokenizer: Any, chunks: Iterable[str]) -> Iterator[NDArray[Any]]:
    """The ids of one document that arrives in pieces; joined, those of the whole.

    No special ids are put around them. The arrays are `(tokens,)`, of the smallest dtype that
    holds the vocabulary, and none is empty.

    Args:
        tokenizer: a `tokenizers.Tokenizer`, or a transformers tokenizer that has one.
        chunks: the text, cut anywhere.

    Raises:
        InputError: when it is no such tokenizer.
    """
    growing = IncrementalTokenizer(tokenizer)
    for chunk in chunks:
        growing.append(chunk)
    if len(growing.ids):
        yield growing.ids

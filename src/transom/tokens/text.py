"""Tokenizes a text that comes in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from transom.tokens.blocks import Cutter
from transom.tokens.encoder import Encoder
from transom.tokens.ids import TokenIds
from transom.tokens.protocols import TokenizerLike
from transom.validation import known_keywords

__all__ = ["tokenize_text", "tokenize_text_with_offsets"]


@known_keywords
def tokenize_text(
    tokenizer: TokenizerLike | Encoder, chunks: str | Iterable[str]
) -> Iterator[TokenIds]:
    """The ids of one document that comes in pieces; joined, they are those of the whole.

    No special ids are added. The arrays are `(tokens,)`, in the smallest dtype that holds the
    vocabulary, and none is empty. It holds a few pieces in memory; more when a long stretch has
    no safe place to cut.

    Args:
        tokenizer: a `tokenizers.Tokenizer`, a transformers tokenizer that has one, or an `Encoder`.
        chunks: the text, cut anywhere; or all of it.

    Raises:
        InputError: when it is none of these, or a chunk is not text.
    """
    encoder = Encoder.of(tokenizer)
    cutter = Cutter(encoder.boundaries, encoder.backend.block)
    for chunk in (chunks,) if isinstance(chunks, str) else chunks:
        yield from filter(len, encoder.encode(cutter.add(chunk)))
    yield from filter(len, encoder.encode([cutter.end()]))


def tokenize_text_with_offsets(
    tokenizer: TokenizerLike | Encoder, chunks: str | Iterable[str]
) -> Iterator[tuple[TokenIds, NDArray[np.int64]]]:
    """As `tokenize_text`, with where each token starts and stops in the whole text.

    Offsets are `(tokens, 2)`, in characters. This always uses the tokenizers library, whichever
    backend the encoder has.
    """
    encoder = Encoder.of(tokenizer)
    cutter = Cutter(encoder.boundaries, encoder.reference.block)
    at = 0
    for chunk in (chunks,) if isinstance(chunks, str) else chunks:
        for block in cutter.add(chunk):
            ids, offsets = encoder.encode_with_offsets(block)
            if len(ids):
                yield ids, offsets + at
            at += len(block.text)
    ids, offsets = encoder.encode_with_offsets(cutter.end())
    if len(ids):
        yield ids, offsets + at

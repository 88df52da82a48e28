"""The token ids of a text that grows."""

from __future__ import annotations

from typing import overload

import numpy as np

from transom.tokens.backends.reference import rust_tokenizer
from transom.tokens.buffer import TokenBuffer
from transom.tokens.encoder import Encoder
from transom.tokens.ids import TokenIds
from transom.tokens.protocols import TokenizerLike
from transom.tokens.stream import TokenStream

__all__ = ["IncrementalTokenizer", "rust_tokenizer", "vocabulary_of"]


def vocabulary_of(tokenizer: TokenizerLike | Encoder) -> int:
    """One more than the largest id: a vocabulary may leave numbers out."""
    if isinstance(tokenizer, Encoder):
        return tokenizer.vocabulary
    return 1 + max(rust_tokenizer(tokenizer).get_vocab(with_added_tokens=True).values(), default=0)


class IncrementalTokenizer:
    """The ids of a text that grows: always those of the whole text.

    Appending takes time for the new text only, however long the text is already: text before the
    last safe place to cut is neither read again nor kept. Without such a place, asking for ids
    takes time for all text after the last one; when a tokenizer has none at all,
    `encoder.boundaries.obstacle` says why. This is a sequence of ids; slices are arrays. Not safe
    for use from several threads.

    Args:
        tokenizer: a `tokenizers.Tokenizer`, a transformers tokenizer that has one, or an `Encoder`.

    Raises:
        InputError: when it is none of these.

    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> tokenizer = Tokenizer(models.WordLevel({"a": 0, "an": 1, "other": 2, "another": 3}))
    >>> tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> growing = IncrementalTokenizer(tokenizer)
    >>> growing.append("a an"), growing.ids
    (0, array([0, 1], dtype=uint8))
    >>> growing.append("other a"), growing.ids
    (1, array([0, 3, 0], dtype=uint8))
    """

    def __init__(self, tokenizer: TokenizerLike | Encoder) -> None:
        self._stream = TokenStream(tokenizer)
        self._settled = TokenBuffer(self._stream.encoder.dtype)

    @property
    def encoder(self) -> Encoder:
        """The prepared tokenizer, which may be shared."""
        return self._stream.encoder

    @property
    def settled(self) -> int:
        """How many ids, from the first on, further text cannot change."""
        return len(self._settled)

    def append(self, text: str) -> int:
        """Append text; returns how many ids, from the first on, stayed the same.

        So `self[append(text):]` are the new ids, which replace all ids from there on. A cache of
        keys and values is cropped to the returned number and fed the new ids.

        Raises:
            InputError: when it is not text that can be written as UTF-8; nothing is changed then.
        """
        before = self.settled
        for ids in self._stream.feed(text):
            self._settled.append(ids)
        return before

    @property
    def ids(self) -> TokenIds:
        """All ids, `(tokens,)` of the smallest dtype that holds the vocabulary; a copy."""
        return self[:]

    @property
    def nbytes(self) -> int:
        """Bytes allocated for ids."""
        return self._settled.nbytes + self._stream.rest.nbytes

    def __len__(self) -> int:
        return self.settled + len(self._stream.rest)

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> TokenIds: ...

    def __getitem__(self, index: int | slice) -> int | TokenIds:
        settled, rest = self._settled.rows, self._stream.rest
        length = len(settled) + len(rest)
        if isinstance(index, slice):
            start, stop, step = index.indices(length)
            if step != 1:
                return self[:][index]
            return np.concatenate(
                [
                    settled[start:stop],
                    rest[max(0, start - len(settled)) : max(0, stop - len(settled))],
                ]
            )
        if not -length <= index < length:
            raise IndexError(f"id {index} was asked for; there are {length}.")
        index %= length
        return int(settled[index] if index < len(settled) else rest[index - len(settled)])

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
    """The ids of a text that is appended to: always those that tokenizing all of it would give.

    Appending takes time for the new text only, however long the text is already: what is before
    the last place at which a text may be cut is not looked at again, nor kept. (Where a tokenizer
    has no such places, `encoder.boundaries.obstacle` says why; then, and where a text has none for
    long, asking for ids takes time for all that is behind the last one.) A sequence of ids; slices
    are arrays. Not safe for use from several threads.

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
        """The tokenizer, prepared; to be shared with others."""
        return self._stream.encoder

    @property
    def settled(self) -> int:
        """How many ids, from the first on, no further text can change."""
        return len(self._settled)

    def append(self, text: str) -> int:
        """Add text at the end; gives the number of ids, from the first on, that stayed the same.

        `self[append(text):]` is therefore what is new, and takes the place of what was from there
        on: a cache of keys and values is cropped to that number and fed the rest.

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

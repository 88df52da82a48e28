"""Turns blocks of text into ids; joined, they are the ids of the whole text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from transom.tokens.backends.base import Backend
from transom.tokens.backends.reference import Reference
from transom.tokens.blocks import TextBlock
from transom.tokens.boundaries import Boundaries
from transom.tokens.ids import TokenIds, id_dtype
from transom.tokens.protocols import TokenizerLike
from transom.validation import known_keywords

__all__ = ["Encoder"]


@known_keywords
class Encoder:
    """A tokenizer prepared for text in blocks; making one takes a moment, so share it.

    Safe for use from several threads.

    Args:
        tokenizer: a `tokenizers.Tokenizer`, or a transformers tokenizer that has one. Do not change
            its parts while this is in use; tokens added to it have no effect here.
        backend: what tokenizes; by default the tokenizers library.

    Attributes:
        boundaries: tells where a text may be cut.
        vocabulary: one more than the largest id.
        dtype: the smallest dtype that holds the ids.

    Raises:
        InputError: when `tokenizer` is neither.
    """

    def __init__(self, tokenizer: TokenizerLike, backend: Backend | None = None) -> None:
        self.reference = Reference(tokenizer)
        self.backend = backend or self.reference
        self.boundaries = Boundaries(self.reference.tokenizer)
        known = self.reference.tokenizer.get_vocab(with_added_tokens=True)
        self.vocabulary = 1 + max(known.values(), default=0)
        self.dtype = id_dtype(self.vocabulary)
        self._leads: dict[str, int] = {"": 0}

    @classmethod
    def of(cls, tokenizer: TokenizerLike | Encoder) -> Encoder:
        """`tokenizer` itself if it is an encoder, else a new encoder."""
        return tokenizer if isinstance(tokenizer, Encoder) else cls(tokenizer)

    def encode(self, blocks: Sequence[TextBlock]) -> list[TokenIds]:
        """The ids of each block, `(tokens,)` of `dtype`."""
        texts = [lead + text for lead, text in blocks]
        return [
            ids[self._of_lead(lead) :].astype(self.dtype)
            for (lead, _), ids in zip(blocks, self.backend.encode(texts), strict=True)
        ]

    def encode_with_offsets(self, block: TextBlock) -> tuple[TokenIds, NDArray[np.int64]]:
        """The ids of a block, and where each is in it: `(tokens, 2)`, in characters."""
        ids, offsets = self.reference.encode_with_offsets(block.lead + block.text)
        start = self._of_lead(block.lead)
        return ids[start:].astype(self.dtype), offsets[start:] - len(block.lead)

    def _of_lead(self, lead: str) -> int:
        if lead not in self._leads:
            [ids] = self.reference.encode([lead])
            self._leads[lead] = len(ids)
        return self._leads[lead]

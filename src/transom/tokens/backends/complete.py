"""Vocabularies that lack some bytes, for libraries that will not have that."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from tokenizers import pre_tokenizers

from transom.tokens.backends.reference import Reference
from transom.tokens.ids import TokenIds

__all__ = ["Complete"]


class Complete:
    """A tokenizer's settings in which every byte has an id.

    A byte-level vocabulary may lack bytes that were in none of the texts it was learnt from. The
    tokenizers library leaves them out of a text, and merges what then meets; others refuse such a
    vocabulary. Here those bytes get ids of their own, beyond all others, and where one turns up
    the tokenizers library does that text over.

    Args:
        reference: the tokenizer.

    Attributes:
        settings: as `tokenizer.json` has them.
    """

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self.settings: str = reference.tokenizer.to_str()
        known = reference.tokenizer.get_vocab(with_added_tokens=True)
        self._beyond = 1 + max(known.values(), default=0)
        everything = json.loads(self.settings)
        model = everything["model"]
        self._completed = (
            model["type"] == "BPE"
            and model.get("unk_token") is None
            and not model.get("byte_fallback")
            and '"ByteLevel"' in json.dumps(everything["pre_tokenizer"])
        )
        lacking = set(pre_tokenizers.ByteLevel.alphabet()) - known.keys()
        self._completed &= bool(lacking)
        if self._completed:
            model["vocab"] |= {byte: self._beyond + i for i, byte in enumerate(sorted(lacking))}
            self.settings = json.dumps(everything)

    def mended(self, texts: Sequence[str], made: Sequence[TokenIds]) -> list[TokenIds]:
        """The ids of texts, those done over that a byte was lacking for."""
        whole = list(made)
        if self._completed:
            for i, ids in enumerate(made):
                if len(ids) and int(ids.max()) >= self._beyond:
                    [whole[i]] = self._reference.encode([texts[i]])
        return whole


def cut(ids: TokenIds, ends: TokenIds) -> list[TokenIds]:
    """The ids of several texts, one after the other, as an array for each."""
    return np.split(ids, ends[1:-1].astype(np.int64)) if len(ends) > 1 else []

"""Completes vocabularies that lack some bytes, for libraries that refuse those."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from tokenizers import pre_tokenizers

from transom.tokens.backends.reference import Reference
from transom.tokens.ids import TokenIds

__all__ = ["Complete"]


class Complete:
    """The settings of a tokenizer, changed so that every byte has an id.

    A byte-level vocabulary may lack bytes that occurred in none of its training texts. The
    tokenizers library leaves them out of a text and merges their neighbours; other libraries
    refuse such a vocabulary. Here those bytes get ids above all others, and a text with such an id
    is tokenized again by the tokenizers library.

    Args:
        reference: the tokenizer.

    Attributes:
        settings: the settings in the format of `tokenizer.json`.
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
        """The ids of texts; those of texts with a lacking byte are made again."""
        whole = list(made)
        if self._completed:
            for i, ids in enumerate(made):
                if len(ids) and int(ids.max()) >= self._beyond:
                    [whole[i]] = self._reference.encode([texts[i]])
        return whole


def cut(ids: TokenIds, ends: TokenIds) -> list[TokenIds]:
    """Cut the ids of several texts, one after the other, into an array per text."""
    return np.split(ids, ends[1:-1].astype(np.int64)) if len(ends) > 1 else []

"""fastokens, a tokenizer for byte-pair encodings (github.com/crusoecloud/fastokens)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import fastokens
import numpy as np

from transom.tokens.backends.base import Backend
from transom.tokens.backends.complete import Complete, cut
from transom.tokens.backends.reference import Reference
from transom.tokens.ids import TokenIds

__all__ = ["Fastokens"]


class Fastokens(Backend):
    """Uses RAYON_NUM_THREADS threads, or as many as there are cores.

    Raises:
        ValueError: when the library does not support the tokenizer.
    """

    name: ClassVar[str] = "fastokens"
    block: ClassVar[int] = 1_048_576
    threads: ClassVar[bool] = False

    def __init__(self, reference: Reference) -> None:
        self._complete = Complete(reference)
        self._tokenizer = fastokens.Tokenizer.from_json_str(self._complete.settings)

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        ids, ends = self._tokenizer.encode_batch_flat(list(texts))
        made = cut(np.frombuffer(ids, dtype="<u4"), np.frombuffer(ends, dtype="<u8"))
        return self._complete.mended(texts, made)

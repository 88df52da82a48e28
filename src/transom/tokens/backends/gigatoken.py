"""gigatoken, a tokenizer for byte-pair encodings (github.com/marcelroed/gigatoken)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import gigatoken

from transom.tokens.backends.base import Backend
from transom.tokens.backends.complete import Complete
from transom.tokens.backends.reference import Reference
from transom.tokens.ids import TokenIds

__all__ = ["Gigatoken"]


class Gigatoken(Backend):
    """Runs in the thread that calls it.

    Raises:
        RuntimeError: when the library does not support the tokenizer.
    """

    name: ClassVar[str] = "gigatoken"
    block: ClassVar[int] = 262_144
    threads: ClassVar[bool] = True

    def __init__(self, reference: Reference) -> None:
        self._complete = Complete(reference)
        self._tokenizer = gigatoken.Tokenizer.from_json(self._complete.settings)

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        made = [self._tokenizer.encode(text) for text in texts]
        return self._complete.mended(texts, made)

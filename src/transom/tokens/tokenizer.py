"""Token ids of a text that grows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from transom.errors import InputError
from transom.tokens.ids import id_dtype

__all__ = ["IncrementalTokenizer", "rust_tokenizer", "vocabulary_of"]


def rust_tokenizer(tokenizer: Any) -> Any:
    """The `tokenizers.Tokenizer` in `tokenizer`.

    Raises:
        InputError: when there is none.
    """
    inner = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(inner, "encode_batch_fast"):
        raise InputError(
            f"cannot tokenize with {type(tokenizer).__name__}; expected a tokenizers.Tokenizer, or "
            "a fast tokenizer of transformers (a slow one can often be converted: "
            "AutoTokenizer.from_pretrained(name, use_fast=True))."
        )
    return inner


def vocabulary_of(tokenizer: Any) -> int:
    """One more than the largest id."""
    return 1 + max(rust_tokenizer(tokenizer).get_vocab(with_added_tokens=True).values(), default=0)


class IncrementalTokenizer:
    """The token ids of a text that is appended to, always those of the whole text.

    Raises:
        InputError: when `tokenizer` is not one of `tokenizers` or transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = rust_tokenizer(tokenizer)
        self._dtype = id_dtype(vocabulary_of(tokenizer))
        self._text = ""

    def append(self, text: str) -> None:
        """Add text at the end."""
        self._text += text

    @property
    def ids(self) -> NDArray[Any]:
        """All ids, `(tokens,)`: what the tokenizer makes of the whole text."""
        ids = self._tokenizer.encode(self._text, add_special_tokens=False).ids
        return np.array(ids, dtype=self._dtype)

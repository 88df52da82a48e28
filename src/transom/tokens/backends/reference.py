"""The tokenizers library: what the others are measured by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from transom.errors import InputError
from transom.tokens.backends.base import Backend

__all__ = ["Reference", "rust_tokenizer"]


def rust_tokenizer(tokenizer: Any) -> Any:
    """The `tokenizers.Tokenizer` in `tokenizer`.

    Raises:
        InputError: when there is none.
    """
    inner = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not isinstance(inner, Tokenizer):
        raise InputError(
            f"cannot tokenize with {type(tokenizer).__name__}; expected a tokenizers.Tokenizer, or "
            "a tokenizer of transformers that has one (is_fast)."
        )
    return inner


class Reference(Backend):
    """A copy of a tokenizer that neither truncates nor pads.

    A copy, because transformers turns both on in the original for the length of a call.

    Args:
        tokenizer: a `tokenizers.Tokenizer`, or a transformers tokenizer that has one.

    Raises:
        InputError: when it has none, or has parts written in Python and truncates or pads.
    """

    name: ClassVar[str] = "tokenizers"
    block: ClassVar[int] = 16_384
    threads: ClassVar[bool] = True

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = _copy(rust_tokenizer(tokenizer))

    def encode(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        # One by one: several are shared out among as many threads as there are cores.
        return [np.array(self._encode(text).ids, dtype=np.int64) for text in texts]

    def encode_with_offsets(self, text: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Ids, and where each of them is in the text: `(tokens, 2)`, in characters."""
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        return np.array(encoding.ids, dtype=np.int64), offsets

    def _encode(self, text: str) -> Any:
        # Unlike `encode`, this one lets other threads run, and leaves out the offsets.
        [encoding] = self.tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return encoding


def _copy(tokenizer: Any) -> Any:
    try:
        copy = Tokenizer.from_str(tokenizer.to_str())
    except Exception as error:  # The library raises nothing more specific.
        if tokenizer.truncation or tokenizer.padding:
            raise InputError(
                f"this tokenizer truncates or pads, and cannot be copied to turn that off ({error})"
                "; expected one after no_truncation() and no_padding()."
            ) from error
        return tokenizer
    copy.encode_special_tokens = tokenizer.encode_special_tokens
    copy.no_truncation()
    copy.no_padding()
    return copy

"""The tokenizers library, whose ids all other backends must give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from transom.errors import InputError
from transom.tokens.backends.base import Backend
from transom.tokens.ids import TokenIds
from transom.tokens.protocols import TokenizerLike

__all__ = ["Reference", "rust_tokenizer"]


def rust_tokenizer(tokenizer: object) -> Tokenizer:
    """The `tokenizers.Tokenizer` that `tokenizer` is or has.

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
    """A tokenizer that neither truncates nor pads.

    It is made of the parts of the given one, because transformers turns truncation and padding on
    in that one during a call. Do not change those parts while this is in use; tokens may be added
    to the original.

    Args:
        tokenizer: a `tokenizers.Tokenizer`, or a transformers tokenizer that has one.

    Raises:
        InputError: when it is neither, or truncates or pads and cannot be copied.
    """

    name: ClassVar[str] = "tokenizers"
    block: ClassVar[int] = 16_384
    threads: ClassVar[bool] = True

    def __init__(self, tokenizer: TokenizerLike) -> None:
        self.tokenizer = _copy(rust_tokenizer(tokenizer))

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        # One by one: given several, the library starts a thread per core.
        return [np.array(self._encode(text).ids, dtype=np.int64) for text in texts]

    def encode_with_offsets(self, text: str) -> tuple[TokenIds, NDArray[np.int64]]:
        """The ids, and where each is in the text: `(tokens, 2)`, in characters."""
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        return np.array(encoding.ids, dtype=np.int64), offsets

    def _encode(self, text: str) -> Encoding:
        # Unlike `encode`, this method releases the GIL, and leaves out the offsets.
        [encoding] = self.tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return encoding


def _copy(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer with the same parts; not through JSON, which rounds the scores of a model."""
    copy = Tokenizer(tokenizer.model)
    for part in ("normalizer", "pre_tokenizer", "post_processor"):
        if getattr(tokenizer, part) is not None:
            setattr(copy, part, getattr(tokenizer, part))
    added = tokenizer.get_added_tokens_decoder()
    copy.add_tokens([added[i] for i in sorted(added)])
    if _by_id(copy) != _by_id(tokenizer):
        if tokenizer.truncation or tokenizer.padding:
            raise InputError(
                "this tokenizer truncates or pads, and its added tokens have ids that a copy would "
                "not get; call no_truncation() and no_padding() of it first."
            )
        return tokenizer
    copy.encode_special_tokens = tokenizer.encode_special_tokens
    return copy


def _by_id(tokenizer: Tokenizer) -> dict[int, str]:
    return {i: repr(token) for i, token in tokenizer.get_added_tokens_decoder().items()}

"""The tokenizers that this package takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tokenizers import Tokenizer

__all__ = ["FastTokenizer", "IdsInput", "TextTokenizer", "TokenDecoder", "TokenizerLike"]


class FastTokenizer(Protocol):
    """A tokenizer of transformers that has one of the tokenizers library (`is_fast`)."""

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The tokenizer that does the work."""


TokenizerLike = Tokenizer | FastTokenizer


class TokenDecoder(Protocol):
    """A tokenizer that turns ids back into text."""

    def decode(self, ids: list[int], /, *, skip_special_tokens: bool) -> str:
        """The text of `ids`."""


class IdsInput(Protocol):
    """What a tokenizer of transformers returns for one text."""

    @property
    def input_ids(self) -> Sequence[int]:
        """The ids."""


class TextTokenizer(Protocol):
    """A tokenizer of transformers, fast or slow."""

    @property
    def all_special_ids(self) -> Sequence[int]:
        """The ids of special tokens."""

    def __call__(self, text: str, /, *, add_special_tokens: bool, verbose: bool) -> IdsInput:
        """The ids of a text."""

    def __len__(self) -> int:
        """How many tokens there are, added ones included."""

    def decode(self, ids: list[int], /) -> str:
        """The text of `ids`."""

"""Decodes tokens to text as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from transom.tokens.protocols import TokenDecoder
from transom.validation import known_keywords

__all__ = ["Detokenizer", "pieces"]

INCOMPLETE = "\ufffd"


class Detokenizer:
    """Turns tokens into text one by one, and gives out text as soon as it is certain.

    A character may take several tokens, and is held back until it is complete. Special tokens are
    left out. The time per token does not depend on how many there are.
    """

    def __init__(self, tokenizer: TokenDecoder) -> None:
        self._tokenizer = tokenizer
        self._pending: list[int] = []
        self._shown = ""

    def push(self, token: int) -> str:
        """Take the next token; returns the text that became certain with it."""
        self._pending.append(token)
        text = self._decode()
        if text.endswith(INCOMPLETE) or len(text) <= len(self._shown):
            return ""
        piece = text[len(self._shown) :]
        # The last token stays: some tokenizers drop a space at the start of what they decode.
        self._pending = self._pending[-1:]
        self._shown = self._decode()
        return piece

    def finish(self) -> str:
        """The text that is held back, once no more tokens come: perhaps part of a character."""
        return self._decode()[len(self._shown) :]

    def _decode(self) -> str:
        return self._tokenizer.decode(self._pending, skip_special_tokens=True)


@known_keywords
def pieces(tokenizer: TokenDecoder, tokens: Iterable[int]) -> Iterator[str]:
    """Text as soon as it is certain; together, what the tokens say. See `Detokenizer`."""
    text = Detokenizer(tokenizer)
    for token in tokens:
        if piece := text.push(token):
            yield piece
    if rest := text.finish():
        yield rest

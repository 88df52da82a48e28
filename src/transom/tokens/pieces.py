"""Decodes tokens to text as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from transom.tokens.protocols import TokenDecoder
from transom.validation import known_keywords

__all__ = ["pieces"]

INCOMPLETE = "\ufffd"


@known_keywords
def pieces(tokenizer: TokenDecoder, tokens: Iterable[int]) -> Iterator[str]:
    """Text as soon as it is certain; joined, the text of all tokens.

    A character may take several tokens, and is held back until it is complete. Special tokens are
    left out. The time per token does not depend on how many there are.
    """
    pending: list[int] = []
    shown = ""
    for token in tokens:
        pending.append(token)
        text = tokenizer.decode(pending, skip_special_tokens=True)
        if text.endswith(INCOMPLETE) or len(text) <= len(shown):
            continue
        yield text[len(shown) :]
        # The last token stays: some tokenizers drop a space at the start of what they decode.
        pending = pending[-1:]
        shown = tokenizer.decode(pending, skip_special_tokens=True)
    rest = tokenizer.decode(pending, skip_special_tokens=True)[len(shown) :]
    if rest:
        yield rest

"""Returns token ids as soon as further text cannot change them."""

from __future__ import annotations

from transom.tokens.blocks import Cutter
from transom.tokens.encoder import Encoder
from transom.tokens.ids import TokenIds
from transom.tokens.protocols import TokenizerLike

__all__ = ["TokenStream"]


class TokenStream:
    """Takes text as it comes, and returns ids as soon as they are certain.

    All ids returned, in order, are those of the whole text, without special ids around it. Time
    and memory depend on the new text only, unless the tokenizer has no safe place to cut at
    (`encoder.boundaries.obstacle`): then all text is held back until `end`.

    Args:
        tokenizer: a `tokenizers.Tokenizer`, a transformers tokenizer that has one, or an `Encoder`.

    Raises:
        InputError: when it is none of these.
    """

    def __init__(self, tokenizer: TokenizerLike | Encoder) -> None:
        self.encoder = Encoder.of(tokenizer)
        self._cutter = Cutter(self.encoder.boundaries, self.encoder.backend.block, eager=True)
        self._rest: TokenIds | None = None

    def feed(self, text: str) -> list[TokenIds]:
        """Add text; returns the ids that are now certain, in arrays `(tokens,)`, often none or one.

        Raises:
            InputError: when it is not text that can be written as UTF-8; nothing is changed then.
        """
        blocks = self._cutter.add(text)
        self._rest = None
        return self.encoder.encode(blocks) if blocks else []

    @property
    def rest(self) -> TokenIds:
        """The ids of the text held back, if the text ended here; do not write to them."""
        if self._rest is None:
            [self._rest] = self.encoder.encode([self._cutter.rest])
        return self._rest

    def end(self) -> TokenIds:
        """The ids of the text held back; text added later belongs to another text."""
        rest = self.rest
        self._cutter.end()
        self._rest = None
        return rest

    def copy(self) -> TokenStream:
        """An independent copy of the present state; the encoder is shared."""
        twin = TokenStream(self.encoder)
        twin._cutter = self._cutter.copy()
        return twin

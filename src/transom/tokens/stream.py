"""Token ids as soon as no further text can change them."""

from __future__ import annotations

from transom.tokens.blocks import Cutter
from transom.tokens.encoder import Encoder
from transom.tokens.ids import TokenIds
from transom.tokens.protocols import TokenizerLike

__all__ = ["TokenStream"]


class TokenStream:
    """Takes text as it comes, and gives ids as soon as they are certain.

    All that is given, in order, is what the tokenizer makes of the whole text, without special ids
    around it. Takes time and memory for the new text only, unless the tokenizer has no place at
    which a text may be cut (`encoder.boundaries.obstacle`): then all is held back until `end`.

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
        """The ids that this text settles, in arrays `(tokens,)`; often none, or one.

        Raises:
            InputError: when it is not text that can be written as UTF-8; nothing is changed then.
        """
        blocks = self._cutter.add(text)
        self._rest = None
        return self.encoder.encode(blocks) if blocks else []

    @property
    def rest(self) -> TokenIds:
        """The ids of what has been held back, were the text to end here; not to be written to."""
        if self._rest is None:
            [self._rest] = self.encoder.encode([self._cutter.rest])
        return self._rest

    def end(self) -> TokenIds:
        """The ids of what is left; the text that comes next is another one."""
        rest = self.rest
        self._cutter.end()
        self._rest = None
        return rest

    def copy(self) -> TokenStream:
        """One that goes on from here by itself; the encoder is shared."""
        twin = TokenStream(self.encoder)
        twin._cutter = self._cutter.copy()
        return twin

"""Merges of a byte-pair encoding, for a text that nothing splits."""

from __future__ import annotations

from itertools import pairwise

from tokenizers import Tokenizer, models

__all__ = ["Merges"]


class Merges:
    """Tells which neighbours a byte-pair encoding may merge.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        model = tokenizer.model
        # With ignore_merges a text is looked up as a whole, so its length matters. A suffix marks
        # the end of a text, and a prefix all of it but the start, so a cut would change ids.
        self.understood = isinstance(model, models.BPE) and not (
            model.dropout
            or model.ignore_merges
            or model.continuing_subword_prefix
            or model.end_of_word_suffix
        )
        self._tokenizer = tokenizer
        self._pairs: set[tuple[str, str]] | None = None
        self._known: dict[str, int] = {}

    def apart(self, left: str, right: str) -> bool:
        """Whether both neighbours are in the vocabulary, and no token contains them side by side.

        Then every merge stays on one side, and does not depend on merges on the other side.
        """
        if not self.understood:
            return False
        if self._pairs is None:
            self._known = self._tokenizer.get_vocab(with_added_tokens=False)
            self._pairs = {pair for token in self._known for pair in pairwise(token)}
        known = left in self._known and right in self._known
        return known and (left, right) not in self._pairs

"""Added tokens, which a tokenizer finds in a text before anything else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

from tokenizers import AddedToken

__all__ = ["AddedTokens"]


class AddedTokens:
    """The tokens that are searched in one pass: before normalization, or after it.

    Args:
        tokens: the tokens.
        spellings: returns how a token may appear in the searched text.
    """

    def __init__(
        self, tokens: Iterable[AddedToken], spellings: Callable[[AddedToken], Iterable[str]]
    ) -> None:
        self._pairs: set[tuple[str, str]] = set()
        self._ends: set[str] = set()
        self._starts_taking_space: set[str] = set()
        self._takes_space_behind = False
        for token in tokens:
            self._takes_space_behind |= token.rstrip
            for text in spellings(token):
                self._pairs |= set(pairwise(text))
                self._ends |= set(text[-1:])
                self._starts_taking_space |= set(text[:1]) if token.lstrip else set()

    def apart(self, left: str, right: str) -> bool:
        """Whether no token depends on both of two neighbours, and none ends between them."""
        if (left, right) in self._pairs or left in self._ends:
            return False
        if not left.isspace():
            return True
        # A token may take all white space before or after it.
        if self._takes_space_behind:
            return False
        return not self._starts_taking_space or not (
            right.isspace() or right in self._starts_taking_space
        )

"""Cuts a text that comes in pieces into blocks that can be tokenized by themselves."""

from __future__ import annotations

from typing import NamedTuple

from transom.errors import InputError
from transom.tokens.boundaries import Boundaries

__all__ = ["Cutter", "TextBlock"]


class TextBlock(NamedTuple):
    """A stretch of a text.

    Attributes:
        lead: the character before the block, which is tokenized with it; empty at the start of
            the text.
        text: the text of the block.
    """

    lead: str
    text: str


class Cutter:
    """Cuts a text at safe places, as soon as it has `size` characters.

    Every character is read only a few times, into whatever pieces the text was cut. Text without a
    safe place stays together, so memory is bounded only by the distance of safe places.

    Args:
        boundaries: tells which places are safe.
        size: the least characters of a block, unless it is the last one.
        eager: hold back as little as possible: also cut at the last safe place of the text added.
    """

    def __init__(self, boundaries: Boundaries, size: int, *, eager: bool = False) -> None:
        self._boundaries = boundaries
        self._size = size
        self._eager = eager
        self._lead = ""
        self._parts: list[str] = []
        self._held = 0

    def add(self, text: str) -> list[TextBlock]:
        """Add the next text; returns the blocks that it completes.

        Raises:
            InputError: when it is not text, or cannot be written as UTF-8; it is not added then.
        """
        _check(text)
        # Whether the place before the new text is safe is known only now.
        edge = self._parts[-1][-1] if self._parts else ""
        text, start = edge + text, len(edge)
        blocks = []
        while at := self._boundaries.first(text, max(1, start + self._size - self._held)):
            blocks.append(self._cut(text, start, at))
            start = at
        if self._eager:
            at = self._boundaries.last(text, max(1, start + (not self._held)))
            if at:
                blocks.append(self._cut(text, start, at))
                start = at
        if start < len(text):
            self._parts.append(text[start:])
            self._held += len(text) - start
        return blocks

    @property
    def rest(self) -> TextBlock:
        """The text that was added and is in no block yet."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return TextBlock(self._lead, self._parts[0] if self._parts else "")

    def end(self) -> TextBlock:
        """The last block; text added later belongs to another text."""
        rest = self.rest
        self._begin("")
        return rest

    def copy(self) -> Cutter:
        """An independent copy of the present state."""
        twin = Cutter(self._boundaries, self._size, eager=self._eager)
        twin._lead, twin._parts, twin._held = self._lead, [*self._parts], self._held
        return twin

    def _cut(self, text: str, start: int, at: int) -> TextBlock:
        block = TextBlock(self._lead, "".join([*self._parts, text[start:at]]))
        self._begin(text[at - 1])
        return block

    def _begin(self, lead: str) -> None:
        self._lead, self._parts, self._held = lead, [], 0


def _check(text: object) -> None:
    if not isinstance(text, str):
        raise InputError(f"cannot tokenize {type(text).__name__}; expected text (str).")
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the text has half a character in it, {text[error.start]!r} at {error.start:,}; no "
            "tokenizer takes that. Expected text that can be written as UTF-8; if it came from "
            "bytes, decode them with errors='replace'."
        ) from error

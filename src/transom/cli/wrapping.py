"""Streamed text, wrapped into lines between words."""

from __future__ import annotations

import re
from collections.abc import Callable

from rich.cells import cell_len

__all__ = ["WordWrapper", "visible"]

# Control characters move the cursor, change colours and set titles. A model must not do that.
CONTROLS = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), "\ufffd")
CONTROLS |= {ord("\n"): "\n", ord("\t"): "    ", ord("\r"): ""}
PARTS = re.compile(r"\n|[^\S\n]+|\S+")


def visible(text: str) -> str:
    """The text with every control character replaced, except new lines.

    >>> visible("a" + chr(27) + "[2Jb")
    'a�[2Jb'
    """
    return text.translate(CONTROLS)


class WordWrapper:
    """Writes text word by word, and starts a new line when a word does not fit.

    Leaves out spaces at a line break. The terminal breaks words that are longer than a line.
    Text in scripts without spaces may be broken anywhere.

    Args:
        write: writes text to the terminal.
        width: returns the columns of the terminal. Called for every word, because a user may
            resize the terminal.
    """

    def __init__(self, write: Callable[[str], None], width: Callable[[], int]) -> None:
        self._write = write
        self._width = width
        self._column = 0
        self._space = ""
        self._word = ""

    def __call__(self, piece: str) -> None:
        """Take more text. An incomplete word waits for its rest."""
        for part in PARTS.findall(visible(piece)):
            if part == "\n":
                self._flush()
                self._space = ""
                self._write("\n")
                self._column = 0
            elif part.isspace():
                self._flush()
                self._space += part
            else:
                self._add(part)

    def end(self) -> None:
        """Write the last word and end the line."""
        self._flush()
        if self._column:
            self._write("\n")
        self._column, self._space = 0, ""

    def _add(self, part: str) -> None:
        if part.isascii():
            self._word += part
            return
        for character in part:
            if cell_len(character) > 1:
                self._flush()
            self._word += character
            if cell_len(character) > 1:
                self._flush()

    def _flush(self) -> None:
        if not self._word:
            return
        width, taken = max(1, self._width()), cell_len(self._word)
        if self._column + len(self._space) + taken > width:
            if self._column:
                self._write("\n")
            self._column, self._space = 0, ""
        self._write(self._space + self._word)
        self._column += len(self._space) + taken
        if self._column > width:
            self._column = (self._column - 1) % width + 1
        self._space = self._word = ""

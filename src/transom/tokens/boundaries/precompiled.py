"""SentencePiece's own normalizer, which works grapheme by grapheme (Unicode Standard Annex 29)."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from itertools import chain, product

__all__ = ["images_of_graphemes"]

# Characters that form a grapheme with what follows them (Grapheme_Cluster_Break=Prepend), as of
# Unicode 16. Graphemes of six bytes or more are normalized character by character, so only one of
# these before a character, or two of the short ones, matter.
SHORT = [*map(chr, range(0x600, 0x606)), "\u06dd", "\u070f"]
PREPENDED = [
    *SHORT,
    *"\u0890\u0891\u08e2\u0d4e\U000110bd\U000110cd\U000111c2\U000111c3\U000113d1\U0001193f",
    *"\U00011941\U00011a3a\U00011a84\U00011a85\U00011a86\U00011a87\U00011a88\U00011a89",
    *"\U00011d46\U00011f02",
]
# Categories of characters that never continue a grapheme; of category Lo, only some scripts.
STARTS = frozenset({"Lu", "Ll", "Lt", "Nd", "Nl", "No", "Sm", "Sc"})
STARTS |= {"Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po"}
IDEOGRAPHS = (range(0x3041, 0x3097), range(0x30A1, 0x30FB), range(0x3400, 0xA000))


def images_of_graphemes(
    normalize: Callable[[str], str], left: str, right: str
) -> tuple[str, str] | None:
    """What two neighbours become in any text; None when that is not known.

    It is known only when the second one is a control character, such as a newline: a control
    character is always a grapheme by itself.
    """
    if unicodedata.category(right) != "Cc" or right == "\r" or not _starts(left):
        return None
    made = normalize(left), normalize(right)
    before = chain(PREPENDED, map("".join, product(SHORT, SHORT)))
    if not all(made) or any(not normalize(text + left).endswith(made[0]) for text in before):
        return None
    return made


def _starts(character: str) -> bool:
    if unicodedata.category(character) == "Lo":
        return any(ord(character) in block for block in IDEOGRAPHS)
    return unicodedata.category(character) in STARTS

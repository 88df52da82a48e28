"""Characters that Unicode's normal forms never combine with their neighbours.

Unicode guarantees that this never changes for an assigned character (Unicode Standard Annex 15,
stability). Characters that this Python does not know count as combining.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

__all__ = ["apart_from_before", "apart_from_behind"]

HANGUL = (range(0x1100, 0x1200), range(0xAC00, 0xD7B0))
SECOND_HANGUL = range(0x1160, 0x1200)


def apart_from_before(character: str) -> bool:
    r"""Whether a character is never composed or reordered with what precedes it.

    >>> apart_from_before("e"), apart_from_before("\u0301")
    (True, False)
    """
    first = unicodedata.normalize("NFKD", character)[0]
    return unicodedata.category(character) != "Cn" and all(
        not unicodedata.combining(c) and c not in _composed()[1] and ord(c) not in SECOND_HANGUL
        for c in (character, first)
    )


def apart_from_behind(character: str) -> bool:
    """Whether a character is never composed or reordered with what follows it.

    >>> apart_from_behind(" "), apart_from_behind("e")
    (True, False)
    """
    return unicodedata.category(character) != "Cn" and all(
        not unicodedata.combining(c)
        and c not in _composed()[0]
        and not any(ord(c) in block for block in HANGUL)
        for c in character + unicodedata.normalize("NFKD", character)
    )


@lru_cache
def _composed() -> tuple[frozenset[str], frozenset[str]]:
    """The characters that compose others: those that come first, and those that come second."""
    pairs = [
        [chr(int(code, 16)) for code in parts]
        for parts in (unicodedata.decomposition(chr(c)).split() for c in range(0x110000))
        if len(parts) == 2 and not parts[0].startswith("<")
    ]
    return frozenset(first for first, _ in pairs), frozenset(second for _, second in pairs)

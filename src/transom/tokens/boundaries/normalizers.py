"""What normalizers make of two neighbours, if nothing around them matters."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tokenizers import normalizers

from transom.tokens.boundaries.forms import apart_from_before, apart_from_behind
from transom.tokens.boundaries.parse import Unprovable
from transom.tokens.boundaries.pattern import SplitPattern
from transom.tokens.boundaries.precompiled import images_of_graphemes

__all__ = ["Normalizing"]

CHARACTER_BY_CHARACTER = frozenset({"ByteLevel", "Lowercase", "Nmt", "StripAccents"})
# Unicode normal forms; BertNormalizer uses one to strip accents.
FORMS = frozenset({"BertNormalizer", "NFC", "NFD", "NFKC", "NFKD"})
OTHERS = frozenset({"Precompiled", "Prepend", "Strip"})


class Normalizing:
    """One step of a normalizer.

    Args:
        settings: its settings in `tokenizer.json`.

    Raises:
        Unprovable: when its effect on a character may depend on distant characters.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._kind = settings["type"]
        self._pattern: SplitPattern | None = None
        self._content = settings.get("content", "")
        self._normalizer = normalizers.Sequence([])
        self._normalizer.__setstate__(json.dumps(settings).encode())
        if self._kind == "Replace":
            [(kind, text)] = settings["pattern"].items()
            if kind == "Regex" or len(text) != 1:
                self._pattern = SplitPattern(text if kind == "Regex" else re.escape(text))
        elif self._kind not in CHARACTER_BY_CHARACTER | FORMS | OTHERS:
            raise Unprovable(f"the normalizer {self._kind}")

    def images(self, left: str, right: str) -> tuple[str, str] | None:
        """What `left` and its right neighbour `right` become.

        None when the text around them may matter, or when one of them vanishes, as other
        characters become neighbours then.
        """
        if self._kind == "Prepend":
            return left, right  # It changes only the start of a text; `left` stands before `right`.
        if self._kind == "Strip":
            return None if left[-1].isspace() else (left, right)
        if self._pattern is not None:
            return self._replaced(self._pattern, left, right)
        if self._kind == "Precompiled":
            if len(left + right) != 2:
                return None
            return images_of_graphemes(self._normalizer.normalize_str, left, right)
        if self._kind in FORMS and not (
            apart_from_before(left[0])
            and apart_from_before(right[0])
            and all(apart_from_behind(c) for c in right)
        ):
            return None
        left, right = (self._normalizer.normalize_str(text) for text in (left, right))
        return (left, right) if left and right else None

    def _replaced(self, pattern: SplitPattern, left: str, right: str) -> tuple[str, str] | None:
        if any(pattern.matches(c) is not False for c in left):
            return None
        if all(pattern.matches(c) is False for c in right):
            return left, right
        # Replaced or not, it starts with the same character, as when spaces become one.
        return (left, right[0]) if self._content.startswith(right[0]) else None

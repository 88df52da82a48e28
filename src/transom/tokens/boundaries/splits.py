"""Tells where pre-tokenizers split, as far as two neighbours decide it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

from tokenizers import pre_tokenizers

from transom.tokens.boundaries.parse import Unprovable
from transom.tokens.boundaries.pattern import SplitPattern

__all__ = ["Splitting", "Verdict"]

# The expression built into ByteLevel of tokenizers: that of GPT-2.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Two neighbours alone decide where these split, so a text of only these two shows it.
BY_TWO = frozenset(
    {
        "BertPreTokenizer",
        "CharDelimiterSplit",
        "Digits",
        "Punctuation",
        "Whitespace",
        "WhitespaceSplit",
    }
)


class Verdict(Enum):
    """What is known of the place between two characters.

    Attributes:
        SPLIT: the text is always split there.
        APART: even without a split there, neither side depends on the other.
        UNKNOWN: neither is certain.
    """

    SPLIT = "split"
    APART = "apart"
    UNKNOWN = "unknown"


class Splitting:
    """One step of a pre-tokenizer.

    Args:
        settings: its settings in `tokenizer.json`.

    Raises:
        Unprovable: when a split may depend on distant characters.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._kind = settings["type"]
        self._pattern: SplitPattern | None = None
        if self._kind == "Split":
            [(kind, text)] = settings["pattern"].items()
            self._pattern = SplitPattern(text if kind == "Regex" else re.escape(text))
        elif self._kind == "ByteLevel":
            self._pattern = SplitPattern(GPT2) if settings.get("use_regex", True) else None
        elif self._kind not in BY_TWO | {"Metaspace"}:
            raise Unprovable(f"the pre-tokenizer {self._kind}")
        self._engine = pre_tokenizers.Sequence([])
        self._engine.__setstate__(json.dumps(settings).encode())

    def verdict(self, left: str, right: str) -> Verdict:
        """The verdict on the place between two characters."""
        if self._kind == "Metaspace":
            space = self._settings["replacement"]
            split = self._settings.get("split", True) and self.images(left, right)[1] == space
            return Verdict.SPLIT if split else Verdict.APART
        if self._pattern is not None:
            return self._by_pattern(self._pattern, left, right)
        if self._kind == "ByteLevel":
            return Verdict.APART
        pieces = self._engine.pre_tokenize_str(left + right)
        whole = any(start == 0 and stop == 2 for _, (start, stop) in pieces)
        return Verdict.APART if whole else Verdict.SPLIT

    def images(self, left: str, right: str) -> tuple[str, str]:
        """The two characters that the next step finds there, if this step does not split."""
        if self._kind == "Metaspace":
            space = self._settings["replacement"]
            return left.replace(" ", space), right.replace(" ", space)
        if self._kind == "ByteLevel":
            return _as_bytes(left)[-1], _as_bytes(right)[0]
        return left, right

    def _by_pattern(self, pattern: SplitPattern, left: str, right: str) -> Verdict:
        if pattern.joins(left, right):
            return Verdict.UNKNOWN
        before, after = pattern.matches(left), pattern.matches(right)
        behavior = self._settings.get("behavior", "Isolated")
        if before is False and after is False:
            return Verdict.APART
        if behavior in ("Isolated", "Removed"):
            return Verdict.SPLIT if before or after else Verdict.APART
        if before is None or after is None:
            return Verdict.UNKNOWN
        # A delimiter is a match or, if inverted, the text between matches.
        inverted = self._settings["invert"]
        before, after = before != inverted, after != inverted
        together = {
            "MergedWithPrevious": after and not before,
            "MergedWithNext": before and not after,
            "Contiguous": before == after,
        }[behavior]
        return Verdict.APART if together else Verdict.SPLIT


def _as_bytes(character: str) -> str:
    engine = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    [(text, _)] = engine.pre_tokenize_str(character)
    return text

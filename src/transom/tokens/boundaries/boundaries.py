"""Finds where a text may be cut so that its parts give the ids of the whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tokenizers import Tokenizer

from transom.tokens.boundaries.added import AddedTokens
from transom.tokens.boundaries.merges import Merges
from transom.tokens.boundaries.normalizers import Normalizing
from transom.tokens.boundaries.parse import Unprovable
from transom.tokens.boundaries.splits import Splitting, Verdict

__all__ = ["Boundaries"]

REMEMBERED = 200_000  # pairs of characters; only random text has more


class Boundaries:
    """Tells which places are safe to cut at: where ids never depend on both sides.

    The two characters at a place decide. A place is safe when the following holds for every text A
    that ends in the first character and every text B that starts with the second: the ids of A + B
    are those of A, followed by ids of B that do not depend on A. So the second of two parts is
    tokenized together with the one character before it, and the ids of that character are left
    out: whatever a tokenizer does to the start of a text happens to that character.

    Safety is derived from the settings of the tokenizer, step by step: added tokens, normalizer,
    added tokens again, pre-tokenizer, and, if that does not split, the merges of the model. A step
    that is not understood makes a place unsafe.

    Args:
        tokenizer: a `tokenizers.Tokenizer`. It is not changed; do not change it afterwards.

    Attributes:
        obstacle: in words, what in the tokenizer makes every place unsafe; None for nothing.

    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> tokenizer = Tokenizer(models.BPE())
    >>> tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    >>> boundaries = Boundaries(tokenizer)
    >>> text = "two  words, 12"
    >>> [place for place in range(1, len(text)) if boundaries.safe(text[place - 1 : place + 1])]
    [3, 10, 11]
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.obstacle: str | None = None
        self._safe: dict[str, bool] = {}
        self._merges = Merges(tokenizer)
        added = tokenizer.get_added_tokens_decoder().values()
        normalizer = tokenizer.normalizer
        self._verbatim = AddedTokens((t for t in added if not t.normalized), lambda t: [t.content])
        self._normalized = AddedTokens(
            (token for token in added if token.normalized),
            lambda t: [t.content, *([normalizer.normalize_str(t.content)] if normalizer else [])],
        )
        try:
            self._normalizing = [Normalizing(s) for s in _steps(normalizer, "normalizers")]
            self._splitting = [
                Splitting(s) for s in _steps(tokenizer.pre_tokenizer, "pretokenizers")
            ]
        except Unprovable as reason:
            self.obstacle = str(reason)
        else:
            if not self._splitting and not self._merges.understood:
                model = type(tokenizer.model).__name__
                self.obstacle = f"the model {model}, as nothing splits the text before it"

    def safe(self, pair: str) -> bool:
        """Whether the place between two characters, given as one string, is safe."""
        known = self._safe.get(pair)
        if known is None:
            if len(self._safe) >= REMEMBERED:
                self._safe.clear()
            known = self._safe[pair] = self.obstacle is None and self._judge(*pair)
        return known

    def last(self, text: str, start: int = 1, stop: int | None = None) -> int:
        """The last safe place in `text` from `start` to before `stop`; 0 for none."""
        if self.obstacle is None:
            for place in range(len(text) if stop is None else stop, start, -1):
                if self.safe(text[place - 2 : place]):
                    return place - 1
        return 0

    def first(self, text: str, start: int = 1) -> int:
        """The first safe place in `text` from `start` on; 0 for none."""
        if self.obstacle is None:
            for place in range(start, len(text)):
                if self.safe(text[place - 1 : place + 1]):
                    return place
        return 0

    def _judge(self, left: str, right: str) -> bool:
        if not self._verbatim.apart(left, right):
            return False
        for step in self._normalizing:
            images = step.images(left, right)
            if images is None:
                return False
            left, right = images
        left, right = left[-1], right[0]
        if not self._normalized.apart(left, right):
            return False
        for splitting in self._splitting:
            verdict = splitting.verdict(left, right)
            if verdict is not Verdict.APART:
                return verdict is Verdict.SPLIT
            left, right = splitting.images(left, right)
        return self._merges.apart(left, right)


def _steps(part: Any, nested: str) -> Iterator[Mapping[str, Any]]:
    """The settings of a part of a tokenizer, step by step.

    Raises:
        Unprovable: when the part is written in Python and so has no settings.
    """
    if part is None:
        return
    try:
        settings = json.loads(part.__getstate__())
    except Exception as error:  # The library raises nothing more specific.
        raise Unprovable(f"a {type(part).__name__} written in Python") from error
    yield from _flat([settings], nested)


def _flat(settings: Iterable[Mapping[str, Any]], nested: str) -> Iterator[Mapping[str, Any]]:
    for step in settings:
        if step["type"] == "Sequence":
            yield from _flat(step[nested], nested)
        else:
            yield step

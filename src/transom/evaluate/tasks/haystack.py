"""A text in sentences, from which excerpts of any length are taken at any place."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transom.errors import InputError

__all__ = ["Excerpt", "Haystack", "prompt_of", "sentences"]

LONGEST = 300  # characters of a sentence; longer ones are cut at lines, then between words
SENTENCE = re.compile(r"[.!?][\"')\]”’]*(?=\s)|\S(?=\s*\n\s*\n)")
LINE = re.compile(r"\S(?=\s*\n)")
WORDS = re.compile(rf"\s*.{{1,{LONGEST}}}(?=\s|$)|.{{1,{LONGEST}}}", re.DOTALL)


def sentences(text: str) -> list[str]:
    r"""Pieces of a text that end where a sentence or a paragraph does; joined, they are the text.

    White space belongs to the sentence after it, as it does to the tokens of most tokenizers.

    >>> sentences("One. Two goes\non!  Three\n\nfour")
    ['One.', ' Two goes\non!', '  Three', '\n\nfour']
    """
    return [piece for sentence in _cut(text, SENTENCE) for piece in _small(sentence)]


def _small(sentence: str) -> list[str]:
    if len(sentence) <= LONGEST:
        return [sentence]
    lines = _cut(sentence, LINE)
    return [
        piece for one in lines for piece in (WORDS.findall(one) if len(one) > LONGEST else [one])
    ]


def _cut(text: str, ends: re.Pattern[str]) -> list[str]:
    """A text cut behind every match, without empty pieces."""
    edges = [0, *(match.end() for match in ends.finditer(text)), len(text)]
    return [text[start:stop] for start, stop in pairwise(edges) if stop > start]


@dataclass(frozen=True)
class Excerpt:
    """Neighbouring sentences of a text, and the tokens of each."""

    pieces: tuple[str, ...]
    sizes: NDArray[np.int64]

    @property
    def text(self) -> str:
        """The sentences, joined."""
        return "".join(self.pieces)

    def parted(self, depth: float) -> tuple[Excerpt, Excerpt]:
        """The part before and the part after `depth` of the tokens, cut between sentences."""
        ends = np.concatenate([[0], np.cumsum(self.sizes)])
        first = int(np.abs(ends - depth * ends[-1]).argmin())
        return (
            Excerpt(self.pieces[:first], self.sizes[:first]),
            Excerpt(self.pieces[first:], self.sizes[first:]),
        )

    def around(self, sentence: str, depth: float) -> str:
        """The text with `sentence` inserted at `depth`, with a space on each side."""
        before, after = (part.text for part in self.parted(depth))
        left = "" if before[-1:].isspace() else " "
        right = "" if after[:1].isspace() or not after else " "
        return f"{before}{left}{sentence}{right}{after}"

    def pages(self, count: int) -> list[Excerpt]:
        """The excerpt in `count` pages of about as many tokens each."""
        pages, rest = [], self
        for left in range(count, 0, -1):
            page, rest = rest.parted(1 / left)
            pages.append(page)
        return pages

    def shorter(self) -> Excerpt:
        """The excerpt without its last sentence."""
        return Excerpt(self.pieces[:-1], self.sizes[:-1])


class Haystack:
    """A text in sentences, with the number of tokens of each sentence by itself.

    Args:
        pieces: the sentences; joined, they are the text.
        tokenizer: the one of the model that will read them.
        name: the name of the text in errors.
        repeats: whether the text is repeated where it is too short, as filler is.
    """

    def __init__(
        self,
        pieces: Sequence[str],
        tokenizer: Any,
        *,
        name: str = "the text",
        repeats: bool = False,
    ) -> None:
        self._pieces = tuple(pieces)
        self._name = name
        self._repeats = repeats
        ids = (
            tokenizer([*pieces], add_special_tokens=False, verbose=False).input_ids
            if pieces
            else []
        )
        self._sizes = np.array([len(one) for one in ids], dtype=np.int64)

    @property
    def tokens(self) -> int:
        """The tokens of all sentences; the joined text may have a few less."""
        return int(self._sizes.sum())

    def excerpt(self, tokens: int, place: float = 0.0) -> Excerpt:
        """As many neighbouring whole sentences as fit into `tokens` tokens.

        Args:
            place: where to start: 0 at the start of the text, 1 at the last place that leaves
                enough text after it.

        Raises:
            InputError: when the text has fewer tokens than that.
        """
        pieces, sizes = self._pieces, self._sizes
        if self._repeats and 0 < self.tokens < tokens:
            times = -(-tokens // self.tokens)
            pieces, sizes = pieces * times, np.tile(sizes, times)
        ends = np.concatenate([[0], np.cumsum(sizes)])
        slack = int(ends[-1]) - tokens
        if slack < 0:
            raise InputError(
                f"{self._name} has {self.tokens:,} tokens, and {tokens:,} of it are to be read at "
                "once; give a longer one, or smaller lengths."
            )
        first = int(np.searchsorted(ends, place * slack, side="right")) - 1
        last = int(np.searchsorted(ends, ends[first] + tokens, side="right")) - 1
        return Excerpt(pieces[first:last], sizes[first:last])


def prompt_of(
    haystack: Haystack,
    length: int,
    ids_of: Callable[[Excerpt], list[int]],
    place: float = 0.0,
) -> tuple[NDArray[np.int32], Excerpt]:
    """The longest prompt around sentences of `haystack` that has at most `length` tokens.

    Args:
        ids_of: makes the ids of the prompt around an excerpt, which may be empty.

    Returns:
        The `(tokens,)` ids of the prompt, and the excerpt in it.

    Raises:
        InputError: when the prompt is longer even without an excerpt, or the text is too short.
    """
    around = len(ids_of(Excerpt((), np.zeros(0, dtype=np.int64))))
    if around > length:
        raise InputError(
            f"a prompt of {length:,} tokens is too short for its question, which takes {around:,}; "
            "give larger lengths."
        )
    excerpt = haystack.excerpt(length - around, place)
    ids = ids_of(excerpt)
    while len(ids) > length:  # rare: joined sentences hardly ever take more tokens
        excerpt = excerpt.shorter()
        ids = ids_of(excerpt)
    return np.array(ids, dtype=np.int32), excerpt

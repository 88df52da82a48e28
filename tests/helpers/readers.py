"""Fake contexts whose answers can be worked out by hand."""

from __future__ import annotations

import copy
import re
from typing import Any, NamedTuple

import numpy as np

from transom.policies import parse

# How each answer starts, and the pattern that finds it among the visible tokens.
SAID = (
    (r"The secret access code of the vault is$", r"code of the vault is (\d+)"),
    (r"The special number of (\w+) is$", r"special number of {} is (\d+)"),
    (r'The value of "([\w ]+)" is$', r'\n"?{}"?: (\d+)'),
    (r"Your name is$", r"My name is (\w+)"),
    (r"The number of your locker is$", r"number of my locker is (\d+)"),
    (r"Your sister is called$", r"My sister is called (\w+)"),
    (r"Your door code is$", r"My door code is (\d+)"),
)


class Letters:
    """A tokenizer of one id per character."""

    chat_template: str | None = None

    def __call__(self, text: Any, **options: Any) -> Any:
        if isinstance(text, str):
            return _Encoding([ord(letter) for letter in text])
        return _Encoding([[ord(letter) for letter in one] for one in text])

    def decode(self, ids: Any) -> str:
        return "".join(map(chr, ids))


class _Encoding(NamedTuple):
    input_ids: Any


class _Usage(NamedTuple):
    kv_bytes: int
    cold_bytes: int


class Reader:
    """Copies what it was asked from what its policy still lets it see, and else says nothing.

    So it is right where the text of the answer is among the tokens that are visible at the end,
    and nowhere else. `read` lists the passes of all forks of one reader.
    """

    def __init__(self, policy: str = "full", chunk: int = 64) -> None:
        self.policy = parse(policy)
        self.chunk = chunk
        self.ids: list[int] = []
        self.read: list[int] = []
        self.forks = [0]
        self.cuts: list[int] = []

    def append(self, ids: Any) -> int:
        for start in range(0, len(ids), self.chunk):
            self.cuts.append(len(self.ids))
            self.ids += [int(one) for one in ids[start : start + self.chunk]]
        self.read.append(len(ids))
        return len(ids)

    def score(self, ids: Any) -> np.ndarray:
        """One nat for every token but the very first."""
        losses = np.ones(len(ids), dtype=np.float32)
        if not self.ids:
            losses[:1] = np.nan
        self.append(ids)
        return losses

    def generate(self, max_new_tokens: int) -> str:
        spans = self.policy.spans(len(self.ids))
        seen = "|".join("".join(map(chr, self.ids[a:b])) for a, b in spans)
        for lead, told in SAID:
            if asked := re.search(lead, seen):
                names = [re.escape(name) for name in asked.groups()]
                # The last match before the question, which itself does not match.
                found = re.findall(told.format(*names), seen[: asked.start()])
                return f" {found[0]}, I think." if found else " nothing."
        return " what?"

    def fork(self) -> Reader:
        twin = copy.copy(self)
        twin.ids, twin.cuts = self.ids[:], self.cuts[:]
        self.forks[0] += 1
        return twin

    def reset(self) -> None:
        self.ids = []

    @property
    def usage(self) -> _Usage:
        kept = self.policy.kept(len(self.ids))
        return _Usage(10 * kept, len(self.ids) - kept)


PROSE = " ".join(
    f"{who} walked to the {place} and found {what} there." + ("\n\n" if place == "pier" else "")
    for what in ("nobody", "a dog", "some rain", "an old friend", "two letters", "the door shut")
    for who in ("Anna", "The baker", "A tall man", "My aunt", "The captain", "Someone")
    for place in ("harbour", "mill", "square", "pier", "hill", "station", "well")
)

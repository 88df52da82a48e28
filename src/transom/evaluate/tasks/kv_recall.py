"""`kv-recall`: one value out of a long list of keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from transom.evaluate.prompts import prompt_ids
from transom.evaluate.tasks.base import DIGITS, Cell, Material, Task, Trial
from transom.evaluate.tasks.haystack import Excerpt, Haystack, prompt_of

__all__ = ["KeyValueLines", "KeyValueRecall"]

TOKENS_PER_PAIR = 4  # at least, so that there are enough pairs to fill any length
COLOURS = (
    *("amber", "azure", "black", "blue", "bronze", "brown", "copper", "coral", "crimson", "cyan"),
    *("golden", "green", "grey", "indigo", "ivory", "jade", "lilac", "maroon", "olive", "orange"),
    *("pink", "plum", "purple", "red", "ruby", "scarlet", "silver", "teal", "violet", "white"),
)
THINGS = (
    *("anchor", "apple", "basket", "bell", "boat", "bridge", "candle", "castle", "chair", "clock"),
    *("cloud", "door", "drum", "engine", "falcon", "feather", "forest", "garden", "hammer"),
    *("harbour", "island", "kettle", "ladder", "lantern", "lemon", "mirror", "mountain", "needle"),
    *("otter", "paper", "pencil", "pepper", "piano", "planet", "pocket", "rabbit", "ribbon"),
    *("river", "rocket", "saddle", "shadow", "spoon", "table", "tiger", "tower", "tunnel"),
    *("valley", "window"),
)


class Pair(NamedTuple):
    """One entry of the list."""

    key: str
    value: str


@dataclass(frozen=True)
class KeyValueRecall(Task):
    """A JSON object, and a question for one of its keys; all depths of a trial share the object.

    Source: Lost in the Middle, https://arxiv.org/abs/2307.03172, section 3.
    """

    name: ClassVar[str] = "kv-recall"
    summary: ClassVar[str] = "one value out of a long JSON object"
    one_text: ClassVar[bool] = True
    what: ClassVar[str] = "JSON object"
    line: ClassVar[str] = '"{0.key}": {0.value},\n'
    around: ClassVar[tuple[str, str]] = ("{\n", "\n}")

    def trial(self, material: Material, cell: Cell) -> Trial:
        pairs = self._pairs(material, cell)
        listed = Haystack([self.line.format(pair) for pair in pairs], material.tokenizer)

        def asked(excerpt: Excerpt) -> Pair:
            return pairs[round(cell.depth * max(0, len(excerpt.pieces) - 1))]

        def ids_of(excerpt: Excerpt) -> list[int]:
            key = asked(excerpt).key
            opening, closing = self.around
            body = opening + "".join(excerpt.pieces).rstrip(",\n") + closing
            content = f'Here is a {self.what}.\n\n{body}\n\nWhat is the value of "{key}" in it?'
            messages = [{"role": "user", "content": content}]
            return prompt_ids(material.tokenizer, messages, f'The value of "{key}" is')

        ids, excerpt = prompt_of(listed, cell.length, ids_of)
        return Trial(cell, ids, asked(excerpt).value)

    def _pairs(self, material: Material, cell: Cell) -> list[Pair]:
        """Enough pairs for the length, the same at every depth, with no key twice."""
        chance = self.chance(material, cell.length, cell.trial)
        keys = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
        wanted = cell.length // TOKENS_PER_PAIR + 1
        numbered = [f"{key} {n}" for n in range(2, 2 + wanted // len(keys)) for key in keys]
        chosen = keys + numbered
        chance.shuffle(chosen)
        # No value twice either, so that a right answer proves that the right key was found.
        values = chance.sample(range(DIGITS[0], max(DIGITS[1], DIGITS[0] + wanted) + 1), wanted)
        return [Pair(key, str(value)) for key, value in zip(chosen[:wanted], values, strict=True)]


@dataclass(frozen=True)
class KeyValueLines(KeyValueRecall):
    """The same as a plain list, one pair on each line."""

    name: ClassVar[str] = "kv-lines"
    summary: ClassVar[str] = "one value out of a long list of lines"
    what: ClassVar[str] = "list of keys and values"
    line: ClassVar[str] = "{0.key}: {0.value}\n"
    around: ClassVar[tuple[str, str]] = ("", "")

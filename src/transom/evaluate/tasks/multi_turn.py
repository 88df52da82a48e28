"""`multi-turn`: facts told in the first turn of a conversation and asked for in the ninth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, NamedTuple

from transom.chat import Message
from transom.evaluate.prompts import prompt_ids
from transom.evaluate.tasks.base import DIGITS, NUMBER, WORD, Cell, Material, Task, Trial
from transom.evaluate.tasks.haystack import Excerpt, prompt_of

__all__ = ["MultiTurn"]

TURNS_BETWEEN = 7  # between the first and the ninth


class Fact(NamedTuple):
    """What one person tells, the question about it, and how the answer starts.

    `names` are the possible answers; without them the answer is a number.
    """

    told: str
    asked: str
    lead: str
    names: tuple[str, ...] = ()


FACTS = (
    Fact(
        "My name is {}.",
        "What is my name?",
        "Your name is",
        ("Marcus", "Yusuf", "Tomas", "Akira", "Patrick", "Viktor", "Hugo", "Leon"),
    ),
    Fact(
        "The number of my locker is {}.",
        "What is the number of my locker?",
        "The number of your locker is",
    ),
    Fact(
        "My sister is called {}.",
        "What is my sister called?",
        "Your sister is called",
        ("Ingrid", "Helena", "Lucia", "Astrid", "Karin", "Greta", "Rosa", "Olga"),
    ),
    Fact("My door code is {}.", "What is my door code?", "Your door code is"),
)


@dataclass(frozen=True)
class MultiTurn(Task):
    """Turn 1 tells four facts, turns 2 to 8 bring pages of the text, turn 9 asks for one fact.

    The model's turns are prescribed, so that every policy sees the same conversation, and the four
    questions share it. Trials are numbered fact by fact, then conversation by conversation.
    """

    name: ClassVar[str] = "multi-turn"
    summary: ClassVar[str] = "facts told in turn 1, asked in turn 9"
    one_text: ClassVar[bool] = True

    def cells(self, length: int, depths: Sequence[float], trials: int) -> list[Cell]:
        return [Cell(length, 0.0, trial) for trial in range(trials * len(FACTS))]

    def where(self, depth: float) -> str:
        return "turn 1"

    def trial(self, material: Material, cell: Cell) -> Trial:
        conversation, number = divmod(cell.trial, len(FACTS))
        chance = self.chance(material, cell.length, conversation)
        place = chance.random()
        values = [_value(fact, chance) for fact in FACTS]
        told = " ".join(fact.told.format(v) for fact, v in zip(FACTS, values, strict=True))
        asked = FACTS[number]

        def ids_of(excerpt: Excerpt) -> list[int]:
            messages = _conversation(told, excerpt, asked.asked)
            return prompt_ids(material.tokenizer, messages, asked.lead)

        ids, _ = prompt_of(material.text, cell.length, ids_of, place)
        return Trial(cell, ids, values[number], form=WORD if asked.names else NUMBER)


def _value(fact: Fact, chance: Random) -> str:
    return chance.choice(fact.names) if fact.names else str(chance.randint(*DIGITS))


def _conversation(told: str, excerpt: Excerpt, asked: str) -> list[Message]:
    messages: list[Message] = [
        {"role": "user", "content": f"{told} Please remember this."},
        {"role": "assistant", "content": "I will remember that."},
    ]
    for number, page in enumerate(excerpt.pages(TURNS_BETWEEN), 1):
        content = f"Here is page {number} of what I am reading.\n\n{page.text.strip()}"
        messages += [
            {"role": "user", "content": content},
            {"role": "assistant", "content": "Thank you. I have read it."},
        ]
    return [*messages, {"role": "user", "content": asked}]

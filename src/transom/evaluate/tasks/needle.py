"""`needle`: one foreign sentence hidden in real prose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from transom.evaluate.prompts import prompt_ids
from transom.evaluate.tasks.base import DIGITS, Cell, Material, Task, Trial
from transom.evaluate.tasks.haystack import Excerpt, prompt_of

__all__ = ["Needle"]

PLACES = (
    *("Lisbon", "Oslo", "Nairobi", "Quito", "Hanoi", "Tbilisi", "Cardiff", "Havana", "Riga"),
    *("Lima", "Dakar", "Kyoto", "Perth", "Zagreb", "Beirut", "Bergen", "Manila", "Tunis"),
)


@dataclass(frozen=True)
class Needle(Task):
    """A city's number in an excerpt of the text; every trial has an excerpt of its own.

    Trials that differ only in depth share the excerpt. Source: the needle in a haystack, as in
    RULER, https://arxiv.org/abs/2404.06654.
    """

    name: ClassVar[str] = "needle"
    summary: ClassVar[str] = "a sentence hidden in real prose"

    def trial(self, material: Material, cell: Cell) -> Trial:
        chance = self.chance(material, *cell)
        city, number = chance.choice(PLACES), str(chance.randint(*DIGITS))
        hidden = f"The special number of {city} is {number}."
        place = self.chance(material, cell.length, cell.trial).random()

        def ids_of(excerpt: Excerpt) -> list[int]:
            content = (
                "A special number is hidden in the text below. Find it and remember it.\n\n"
                f"{excerpt.around(hidden, cell.depth).strip()}\n\n"
                f"What is the special number of {city}?"
            )
            return prompt_ids(
                material.tokenizer,
                [{"role": "user", "content": content}],
                f"The special number of {city} is",
            )

        ids, _ = prompt_of(material.text, cell.length, ids_of, place)
        return Trial(cell, ids, number)

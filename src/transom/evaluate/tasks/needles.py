"""`needles`: several foreign sentences hidden in one excerpt of real prose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from transom.evaluate.prompts import prompt_ids
from transom.evaluate.tasks.base import DIGITS, Cell, Material, Task, Trial
from transom.evaluate.tasks.haystack import Excerpt, prompt_of
from transom.evaluate.tasks.needle import PLACES

__all__ = ["Needles"]

COUNT = 8  # needles, evenly spaced
DEPTHS = tuple((index + 0.5) / COUNT for index in range(COUNT))


@dataclass(frozen=True)
class Needles(Task):
    """Eight cities' numbers in one excerpt of the text, and one question for each.

    The eight questions of a trial share the excerpt, so that it is read only once. This is harder
    than one needle, because seven others look like it. Source: the multi-key retrieval of RULER,
    https://arxiv.org/abs/2404.06654.
    """

    name: ClassVar[str] = "needles"
    summary: ClassVar[str] = "one of eight sentences hidden in real prose"
    one_text: ClassVar[bool] = True

    def cells(self, length: int, depths: Sequence[float], trials: int) -> list[Cell]:
        return [Cell(length, depth, trial) for trial in range(trials) for depth in DEPTHS]

    def trial(self, material: Material, cell: Cell) -> Trial:
        chance = self.chance(material, cell.length, cell.trial)
        place = chance.random()
        cities = chance.sample(PLACES, COUNT)
        numbers = [str(number) for number in chance.sample(range(*DIGITS), COUNT)]
        asked = min(int(cell.depth * COUNT), COUNT - 1)  # the city on the page at that depth
        city = cities[asked]

        def ids_of(excerpt: Excerpt) -> list[int]:
            pages = excerpt.pages(COUNT)
            hidden = [
                f"The special number of {city} is {number}."
                for city, number in zip(cities, numbers, strict=True)
            ]
            body = "".join(
                page.around(sentence, 0.5) for page, sentence in zip(pages, hidden, strict=True)
            )
            content = (
                "Special numbers of some cities are hidden in the text below. Remember them.\n\n"
                f"{body.strip()}\n\nWhat is the special number of {city}?"
            )
            messages = [{"role": "user", "content": content}]
            return prompt_ids(material.tokenizer, messages, f"The special number of {city} is")

        ids, _ = prompt_of(material.text, cell.length, ids_of, place)
        return Trial(cell, ids, numbers[asked])

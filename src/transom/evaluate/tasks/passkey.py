"""`passkey`: a number somewhere in the same few sentences over and over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from transom.evaluate.prompts import prompt_ids
from transom.evaluate.tasks.base import DIGITS, Cell, Material, Task, Trial
from transom.evaluate.tasks.haystack import Excerpt, Haystack, prompt_of, sentences

__all__ = ["Passkey"]

FILLER = (
    " The kettle is warm and the road is long. A bird sits on the fence."
    " Somebody closes a window. Then it is evening, and then it is morning."
)


@dataclass(frozen=True)
class Passkey(Task):
    """A five-digit number in filler that repeats; the same filler for every trial.

    It is called a number and not a pass key: small models explain that word instead of answering
    (SmolLM2-135M got 4 of 8 at 1,500 tokens with full attention so, and 8 of 8 this way).

    Source: Landmark Attention, https://arxiv.org/abs/2305.16300, section 4.3.
    """

    name: ClassVar[str] = "passkey"
    summary: ClassVar[str] = "a number hidden in filler that repeats"

    def trial(self, material: Material, cell: Cell) -> Trial:
        key = str(self.chance(material, *cell).randint(*DIGITS))
        hidden = f"The special number is {key}. Remember it: {key} is the special number."

        def ids_of(excerpt: Excerpt) -> list[int]:
            content = (
                "A special number is hidden in the text below. Find it and remember it.\n\n"
                f"{excerpt.around(hidden, cell.depth).strip()}\n\n"
                "What is the special number?"
            )
            return prompt_ids(
                material.tokenizer, [{"role": "user", "content": content}], "The special number is"
            )

        filler = Haystack(sentences(FILLER), material.tokenizer, repeats=True)
        ids, _ = prompt_of(filler, cell.length, ids_of)
        return Trial(cell, ids, key)

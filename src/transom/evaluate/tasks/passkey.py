"""`passkey`: a number hidden in a few sentences that repeat, or in real prose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from transom.evaluate.prompts import prompt_ids
from transom.evaluate.tasks.base import DIGITS, Cell, Material, Task, Trial
from transom.evaluate.tasks.haystack import Excerpt, Haystack, prompt_of, sentences

__all__ = ["Passkey", "PasskeyInProse"]

CALLED = "secret access code of the vault"
FILLER = (
    " The kettle is warm and the road is long. A bird sits on the fence."
    " Somebody closes a window. Then it is evening, and then it is morning."
)


@dataclass(frozen=True)
class Passkey(Task):
    """A five-digit number in filler that repeats; the same filler for every trial.

    The name of the number has six words, so that nothing else in a text has a similar name. In
    4,096 tokens of a novel, SmolLM2-135M with full attention answered 7 of 7 questions with this
    name. With "the special number" it answered 2, because it took the number of a chapter, and with
    "the pass key" 1, because small models explain that word instead of answering.

    Source: Landmark Attention, https://arxiv.org/abs/2305.16300, section 4.3.
    """

    name: ClassVar[str] = "passkey"
    summary: ClassVar[str] = "a number hidden in filler that repeats"

    def trial(self, material: Material, cell: Cell) -> Trial:
        key = str(self.chance(material, *cell).randint(*DIGITS))
        hidden = f"The {CALLED} is {key}. Remember it: {key} is the {CALLED}."

        def ids_of(excerpt: Excerpt) -> list[int]:
            content = (
                f"The {CALLED} is hidden in the text below. Find it and remember it.\n\n"
                f"{excerpt.around(hidden, cell.depth).strip()}\n\n"
                f"What is the {CALLED}?"
            )
            return prompt_ids(
                material.tokenizer, [{"role": "user", "content": content}], f"The {CALLED} is"
            )

        ids, _ = self._prompt(material, cell, ids_of)
        return Trial(cell, ids, key)

    def _prompt(
        self, material: Material, cell: Cell, ids_of: Callable[[Excerpt], list[int]]
    ) -> tuple[NDArray[np.int32], Excerpt]:
        filler = Haystack(sentences(FILLER), material.tokenizer, repeats=True)
        return prompt_of(filler, cell.length, ids_of)


@dataclass(frozen=True)
class PasskeyInProse(Passkey):
    """The same number in an excerpt of the text; every trial has an excerpt of its own.

    Trials that differ only in depth share the excerpt.
    """

    name: ClassVar[str] = "passkey-prose"
    summary: ClassVar[str] = "the same number hidden in real prose"

    def _prompt(
        self, material: Material, cell: Cell, ids_of: Callable[[Excerpt], list[int]]
    ) -> tuple[NDArray[np.int32], Excerpt]:
        place = self.chance(material, cell.length, cell.trial).random()
        return prompt_of(material.text, cell.length, ids_of, place)

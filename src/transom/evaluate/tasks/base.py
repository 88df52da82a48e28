"""The interface of recall tasks: frozen values that make the same trials from the same seed."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transom.evaluate.tasks.haystack import Haystack

__all__ = ["DIGITS", "NUMBER", "REVISION", "WORD", "Cell", "Material", "Task", "Trial"]

REVISION = 2  # raise it whenever a change alters trials: records of other revisions are refused
NUMBER, WORD = r"\d+", r"\w+"  # patterns of answers
DIGITS = (10_000, 99_999)  # the range of numbers that are asked for


class Cell(NamedTuple):
    """The place of a trial in the grid.

    Attributes:
        length: the most tokens of the prompt.
        depth: where in the text the answer is hidden, from 0 at its start to 1 at its end.
        trial: the number of the trial at this length and depth, from 0.
    """

    length: int
    depth: float
    trial: int


class Material(NamedTuple):
    """What trials are made from: the model's tokenizer, a text and a random seed."""

    tokenizer: Any
    text: Haystack
    seed: int = 0


@dataclass(frozen=True)
class Trial:
    """A prompt and its right answer.

    Attributes:
        cell: the place in the grid.
        ids: `(tokens,)` int32, at most `cell.length` of them.
        expected: the right answer.
        form: a pattern; its first match in the model's text counts as the model's answer.
    """

    cell: Cell
    ids: NDArray[np.int32]
    expected: str
    form: str = NUMBER

    def given(self, answer: str) -> str | None:
        """The model's answer; None if nothing in its text has the form of one.

        >>> Trial(Cell(8, 0.5, 0), np.zeros(0, np.int32), "71432").given(" 71432. Remember it!")
        '71432'
        """
        found = re.search(self.form, answer)
        return found.group() if found else None

    def is_right(self, answer: str) -> bool:
        """Whether the model's answer is the expected one."""
        return self.given(answer) == self.expected


@dataclass(frozen=True)
class Task(ABC):
    """Something that is told early in a prompt and asked at its end.

    A trial depends on the material and its cell alone, not on other trials or their order.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    answer_tokens: ClassVar[int] = 12  # the most tokens of an answer
    one_text: ClassVar[bool] = False  # trials of one length share a text, not the question

    def cells(self, length: int, depths: Sequence[float], trials: int) -> list[Cell]:
        """The grid at one length; by default `trials` at every depth."""
        return [Cell(length, depth, trial) for trial in range(trials) for depth in depths]

    @abstractmethod
    def trial(self, material: Material, cell: Cell) -> Trial:
        """The trial of a cell.

        Raises:
            InputError: when the text is shorter than the cell's length, or the length is too short
                for the question alone.
        """

    def where(self, depth: float) -> str:
        """A depth in words, for a table."""
        return f"{depth:.0%}"

    def chance(self, material: Material, *key: object) -> Random:
        """Random numbers that depend on seed, task and `key` alone, the same on every machine."""
        return Random("/".join(map(str, (material.seed, self.name, *key))))

"""What every recall task is: a frozen value that makes the same trials from the same seed."""

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

REVISION = 2  # to be raised whenever a trial comes out otherwise: records of others are refused
NUMBER, WORD = r"\d+", r"\w+"  # the forms that answers have
DIGITS = (10_000, 99_999)  # numbers that are asked for


class Cell(NamedTuple):
    """Where in the grid a trial stands.

    Attributes:
        length: the most tokens that the prompt may have.
        depth: how far into the text what is asked for stands, 0 at its start and 1 at its end.
        trial: which of the trials of this length and depth it is, from 0.
    """

    length: int
    depth: float
    trial: int


class Material(NamedTuple):
    """What trials are made of: the model's tokenizer, a text, and the seed of all chance."""

    tokenizer: Any
    text: Haystack
    seed: int = 0


@dataclass(frozen=True)
class Trial:
    """A prompt, and what the model should answer.

    Attributes:
        cell: where in the grid it stands.
        ids: `(tokens,)` int32, at most `cell.length` of them.
        expected: the answer.
        form: a pattern; its first match in what the model says is taken for its answer.
    """

    cell: Cell
    ids: NDArray[np.int32]
    expected: str
    form: str = NUMBER

    def given(self, answer: str) -> str | None:
        """What the model answered; None if nothing it said has the form of an answer.

        >>> Trial(Cell(8, 0.5, 0), np.zeros(0, np.int32), "71432").given(" 71432. Remember it!")
        '71432'
        """
        found = re.search(self.form, answer)
        return found.group() if found else None

    def is_right(self, answer: str) -> bool:
        """Whether it is exactly what was expected."""
        return self.given(answer) == self.expected


@dataclass(frozen=True)
class Task(ABC):
    """Something told early in a prompt and asked at its end.

    Trials depend on the material and their cell alone, not on which other trials there are or on
    the order they are made in.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    answer_tokens: ClassVar[int] = 12  # that the model may say; the answer is near the start
    one_text: ClassVar[bool] = False  # trials of one length differ in little but the question

    def cells(self, length: int, depths: Sequence[float], trials: int) -> list[Cell]:
        """The grid at one length; by default `trials` at every depth."""
        return [Cell(length, depth, trial) for trial in range(trials) for depth in depths]

    @abstractmethod
    def trial(self, material: Material, cell: Cell) -> Trial:
        """The trial of a cell.

        Raises:
            InputError: when the text is shorter than the cell's length, or the length too short
                for the question alone.
        """

    def where(self, depth: float) -> str:
        """A depth in words, for a table."""
        return f"{depth:.0%}"

    def chance(self, material: Material, *key: object) -> Random:
        """Numbers that depend on the seed, the task and `key` alone, on every machine alike."""
        return Random("/".join(map(str, (material.seed, self.name, *key))))

"""What every measurement is: something that reads tokens under one policy and gives rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transom.evaluate.rows import Row
from transom.evaluate.tasks import Haystack, Material, sentences

if TYPE_CHECKING:
    from transom.context import Context

__all__ = ["Bench", "Hooks", "Measure"]


@dataclass(frozen=True)
class Bench:
    """What measurements are made on.

    Attributes:
        context: makes a fresh context of a policy's text; all share one model.
        ids: `(tokens,)` int32, the text.
        material: what recall trials are made of: the same text in sentences, and the seed.
    """

    context: Callable[[str], Context]
    ids: NDArray[np.int32]
    material: Material

    @classmethod
    def of(
        cls,
        context: Callable[[str], Context],
        tokenizer: Any,
        text: str,
        *,
        seed: int = 0,
        name: str = "the text",
    ) -> Bench:
        """Tokenize a text for measuring."""
        ids = np.array(tokenizer(text, verbose=False).input_ids, dtype=np.int32)
        haystack = Haystack(sentences(text), tokenizer, name=name)
        return cls(context, ids, Material(tokenizer, haystack, seed))


class Hooks(NamedTuple):
    """How a measurement is listened to.

    Attributes:
        emit: called with each row as it comes.
        on_tokens: called after every pass, with how many tokens went through the model.
        stop: asked before every pass; once true, the measurement ends without further rows.
    """

    emit: Callable[[Row], None]
    on_tokens: Callable[[int], None] = lambda tokens: None
    stop: Callable[[], bool] = lambda: False


class Measure(ABC):
    """One piece of an evaluation, small enough to be done again when it was interrupted."""

    policy: str

    @property
    @abstractmethod
    def title(self) -> str:
        """What is measured, without the policy."""

    @property
    @abstractmethod
    def keys(self) -> Sequence[tuple[Any, ...]]:
        """Of the rows it gives."""

    @abstractmethod
    def tokens(self, bench: Bench) -> int:
        """How many go through the model, about."""

    def check(self, bench: Bench) -> None:
        """Refuse now what would be refused in the middle.

        Raises:
            InputError: when the text does not do.
            PolicyError, UnsupportedModelError: when the model cannot follow the policy.
        """
        bench.context(self.policy)

    @abstractmethod
    def run(self, bench: Bench, wanted: set[tuple[Any, ...]], hooks: Hooks) -> None:
        """Measure, and give the rows whose keys are `wanted`."""

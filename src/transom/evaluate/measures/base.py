"""The interface of measurements: each reads tokens under one policy and gives rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transom.evaluate.rows import Row, RowKey
from transom.evaluate.tasks import Haystack, Material, sentences

if TYPE_CHECKING:
    from transom.context import Context

__all__ = ["Bench", "Hooks", "Measure"]


@dataclass(frozen=True)
class Bench:
    """The model and the text that are measured.

    Attributes:
        context: makes a fresh context from a policy's text; all share one model.
        ids: `(tokens,)` int32, the text.
        material: for recall trials: the same text in sentences, and the seed.
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
    """Callbacks of a measurement.

    Attributes:
        emit: called with each row as it comes.
        on_tokens: called after every pass, with the number of its tokens.
        stop: asked before every pass. Once it is true the measurement ends without further rows.
    """

    emit: Callable[[Row], None]
    on_tokens: Callable[[int], None] = lambda tokens: None
    stop: Callable[[], bool] = lambda: False


class Measure(ABC):
    """One piece of an evaluation, small enough to be repeated after an interruption."""

    policy: str

    @property
    @abstractmethod
    def title(self) -> str:
        """What is measured, in a few words, without the policy."""

    @property
    @abstractmethod
    def keys(self) -> Sequence[RowKey]:
        """The keys of the rows that it gives."""

    @abstractmethod
    def tokens(self, bench: Bench) -> int:
        """About how many tokens go through the model."""

    def check(self, bench: Bench) -> None:
        """Refuse what cannot work now, and not in the middle of the evaluation.

        Raises:
            InputError: when the text cannot be used.
            PolicyError, UnsupportedModelError: when the model cannot follow the policy.
        """
        bench.context(self.policy)

    @abstractmethod
    def run(self, bench: Bench, wanted: set[RowKey], hooks: Hooks) -> None:
        """Measure, and give the rows whose keys are `wanted`."""

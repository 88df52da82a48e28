"""What every window of tokens is: a running state that shows what its policy makes visible."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transom.policies import Positional
from transom.tokens import check_ids, id_dtype
from transom.validation import known_keywords, whole_number

__all__ = ["MaskedIds", "TokenState"]


class MaskedIds(NamedTuple):
    """Token ids and which of them are real.

    Attributes:
        ids: `(tokens,)`, oldest first; read-only.
        attention_mask: `(tokens,)` uint8, 1 for every real token.
    """

    ids: NDArray[Any]
    attention_mask: NDArray[np.uint8]


@known_keywords
class TokenState(ABC):
    """Token ids as they come, of which a policy says what is still shown.

    What is shown is what `policy` lets the newest token see: the tokens from which a model would
    predict the next one. How the ids were split over calls makes no difference. Two states are
    equal when their settings are, they have seen as much, and they show the same. A state can be
    pickled. Not safe for use from several threads.

    A subclass keeps each constructor argument in an attribute of the same name; they must not be
    set afterwards.

    Attributes:
        seen: tokens added so far.
        vocab_size: ids are below it; it decides how many bytes a token takes.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    seen: int
    vocab_size: int

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = self._whole("vocab_size", vocab_size, unit="ids")
        self._dtype = id_dtype(self.vocab_size)
        self.clear()

    @property
    @abstractmethod
    def policy(self) -> Positional | None:
        """The policy this stands for; None where no policy says what is shown."""

    @property
    @abstractmethod
    def ids(self) -> NDArray[Any]:
        """The ids shown, `(tokens,)`, oldest first; read-only, and not changed by later calls."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of memory allocated for tokens."""

    @property
    def dropped(self) -> int:
        """How many of the tokens seen are no longer held."""
        return self.seen - len(self)

    def add_tokens(self, ids: Any) -> None:
        """Take the next ids, in time that depends only on how many they are.

        Args:
            ids: a list, a range, an iterator, or a 1-D array or tensor of whole numbers.

        Raises:
            InputError: when they are something else or not in the vocabulary; nothing is changed.
        """
        self._take(check_ids(ids, self.vocab_size))

    @abstractmethod
    def clear(self) -> None:
        """Forget everything, as if new."""

    @abstractmethod
    def __len__(self) -> int:
        """How many tokens are held."""

    @abstractmethod
    def _take(self, ids: NDArray[Any]) -> None:
        """Take ids that are known to be in the vocabulary, of any integer dtype."""

    def _whole(self, name: str, value: Any, minimum: int = 1, unit: str = "tokens") -> int:
        return whole_number(type(self).__name__, name, value, minimum, unit=unit)

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def _content(self) -> tuple[Any, ...]:
        """What equal states have in common beyond their settings, as arrays and numbers."""
        return (self.seen, self.ids)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)) or type(other) is not type(self):
            return NotImplemented
        return self._settings() == other._settings() and all(
            np.array_equal(mine, theirs)
            for mine, theirs in zip(self._content(), other._content(), strict=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        settings = ", ".join(
            f"{name}={value!r}"
            for name, value in self._settings().items()
            if value != defaults[name].default
        )
        return (
            f"<{type(self).__name__}({settings}): {len(self):,} of {self.seen:,} tokens, "
            f"{self.nbytes:,} bytes>"
        )


def ones(length: int) -> NDArray[np.uint8]:
    """The mask of that many real tokens."""
    return np.ones(length, dtype=np.uint8)

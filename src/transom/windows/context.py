"""The simple window: the most recent tokens, after a pinned prefix if there is one."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from transom.errors import InputError
from transom.policies import Positional, Sinks, Window
from transom.tokens import ANY_VOCABULARY, TokenBuffer
from transom.validation import known_keywords
from transom.windows.base import MaskedIds, TokenState, ones

__all__ = ["ContextWindow"]


@known_keywords
class ContextWindow(TokenState):
    """The `max_length` most recent tokens; of those, the first `pinned` of all stay for ever.

    Args:
        max_length: most tokens held.
        pinned: how many of the very first tokens never leave, such as a system prompt.
        vocab_size: ids are below it.

    Raises:
        InputError: on sizes that make no sense.

    >>> window = ContextWindow(max_length=4)
    >>> window.add_tokens(range(10))
    >>> window.get_context()
    MaskedIds(ids=array([6, 7, 8, 9], dtype=int32), attention_mask=array([1, 1, 1, 1], dtype=uint8))
    >>> window.dropped, window.policy
    (6, Window(size=4))
    """

    name: ClassVar[str] = "simple"
    summary: ClassVar[str] = "the most recent tokens, after a pinned prefix if there is one"

    def __init__(
        self, max_length: int = 512, *, pinned: int = 0, vocab_size: int = ANY_VOCABULARY
    ) -> None:
        self.max_length = self._whole("max_length", max_length)
        self.pinned = self._whole("pinned", pinned, minimum=0)
        if self.pinned >= self.max_length:
            raise InputError(
                f"ContextWindow: pinned is {pinned} and max_length {max_length}; the pinned tokens "
                "count towards max_length, and at least one recent token must fit beside them."
            )
        super().__init__(vocab_size)

    @property
    def policy(self) -> Positional:
        if self.pinned:
            return Sinks(self.pinned, window=self.max_length - self.pinned)
        return Window(self.max_length)

    @property
    def ids(self) -> NDArray[Any]:
        if not len(self._prefix):
            return self._recent.rows
        joined = np.concatenate([self._prefix.rows, self._recent.rows])
        joined.flags.writeable = False
        return joined

    @property
    def nbytes(self) -> int:
        return self._prefix.nbytes + self._recent.nbytes

    def get_context(self) -> MaskedIds:
        """The ids shown and their mask; without a pinned prefix, the ids are not copied."""
        return MaskedIds(self.ids, ones(len(self)))

    def clear(self) -> None:
        self.seen = 0
        self._prefix = TokenBuffer(self._dtype)
        self._recent = TokenBuffer(self._dtype)

    def __len__(self) -> int:
        return len(self._prefix) + len(self._recent)

    def _take(self, ids: NDArray[Any]) -> None:
        self.seen += len(ids)
        lacking = self.pinned - len(self._prefix)
        if lacking:
            self._prefix.append(ids[:lacking])
            ids = ids[lacking:]
        self._recent.keep(ids, newest=self.max_length - self.pinned)

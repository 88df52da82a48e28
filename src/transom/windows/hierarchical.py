"""The hierarchical window: tokens evicted from local enter global."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transom.errors import InputError
from transom.policies import Hierarchical
from transom.tokens import ANY_VOCABULARY, TokenBuffer, TokenIds
from transom.validation import known_keywords
from transom.windows.base import TokenState, ones
from transom.windows.evicted import Compress, Compressed, EvictedIds, Recent, Uniform

__all__ = ["HierarchicalContext", "HierarchicalIds"]


class HierarchicalIds(NamedTuple):
    """Local and global ids, `(tokens,)` each and oldest first, with their masks, uint8."""

    local_ids: TokenIds
    local_mask: NDArray[np.uint8]
    global_ids: TokenIds
    global_mask: NDArray[np.uint8]


class HierarchicalContext(TokenState):
    """The `local_size` most recent tokens, and at most `global_size` that stand for older ones.

    Args:
        local_size: the most local tokens.
        global_size: the most global tokens.
        global_strategy: which of the tokens evicted from local are kept as global.

            - `"recent"`: the newest.
            - `"uniform"`: every n-th, counted from the very first token. n is 1 until
              `global_size` tokens are kept, and doubles whenever there would be more, so that
              between half of `global_size` and all of it is in use.
            - a callable: it gets `block` evicted ids at a time, `(block,)`, and returns ids that
              stand for them, at most as many. The newest of these are kept; evicted ids that wait
              for a full block are shown as they are. It should be deterministic.
        block: how many evicted tokens a callable gets at a time.
        vocab_size: ids are below it, also those that a callable returns.

    Raises:
        InputError: when sizes or the strategy make no sense; from `add_tokens` when the callable
            returns something other than ids, or too many.

    >>> context = HierarchicalContext(local_size=2, global_size=4, global_strategy="uniform")
    >>> context.add_tokens(range(16))
    >>> context.get_context().local_ids, context.get_context().global_ids
    (array([14, 15], dtype=int32), array([ 0,  4,  8, 12], dtype=int32))
    """

    name: ClassVar[str] = "hierarchical"
    summary: ClassVar[str] = "recent tokens as local; tokens evicted from local enter global"

    @known_keywords
    def __init__(
        self,
        local_size: int = 512,
        global_size: int = 2048,
        *,
        global_strategy: str | Compress = "recent",
        block: int = 128,
        vocab_size: int = ANY_VOCABULARY,
    ) -> None:
        self.local_size = self._whole("local_size", local_size)
        self.global_size = self._whole("global_size", global_size)
        self.block = self._whole("block", block)
        self.global_strategy = global_strategy
        if not callable(global_strategy) and global_strategy not in ("recent", "uniform"):
            raise InputError(
                f"HierarchicalContext: global_strategy is {global_strategy!r}; expected "
                "'recent', 'uniform' or a callable that compresses evicted ids."
            )
        if callable(global_strategy) and self.block > self.global_size:
            raise InputError(
                f"HierarchicalContext: block is {block} and global_size {global_size}; ids that "
                "wait to be compressed are global too, so expected block <= global_size."
            )
        super().__init__(vocab_size)

    @property
    def policy(self) -> Hierarchical | None:
        """`Hierarchical` for `"recent"`; None otherwise, as no policy samples or compresses."""
        if self.global_strategy != "recent":
            return None
        return Hierarchical(self.local_size, self.global_size)

    @property
    def ids(self) -> TokenIds:
        """The global ids, then the local ones."""
        joined = np.concatenate([self._older.ids, self._local.rows])
        joined.flags.writeable = False
        return joined

    @property
    def nbytes(self) -> int:
        return self._local.nbytes + self._older.nbytes

    @property
    def dropped(self) -> int:
        """How many of the tokens seen are no longer held as they came."""
        return self.seen - len(self._local) - self._older.verbatim

    def get_context(self) -> HierarchicalIds:
        """Local and global ids with their masks; the local ids are a view."""
        recent, older = self._local.rows, self._older.ids
        return HierarchicalIds(recent, ones(len(recent)), older, ones(len(older)))

    def clear(self) -> None:
        self.seen = 0
        self._local = TokenBuffer(self._dtype)
        self._older = self._empty()

    def __len__(self) -> int:
        return len(self._older.ids) + len(self._local)

    def _empty(self) -> EvictedIds:
        if callable(self.global_strategy):
            return Compressed(self.global_size, self.vocab_size, self.global_strategy, self.block)
        kind = Recent if self.global_strategy == "recent" else Uniform
        return kind(self.global_size, self.vocab_size)

    def _take(self, ids: TokenIds) -> None:
        leaving = max(0, len(self._local) + len(ids) - self.local_size)
        older = self._local.rows[:leaving]
        self._older.take(np.concatenate([older, ids[: leaving - len(older)]]))
        self._local.keep(ids, newest=self.local_size)
        self.seen += len(ids)

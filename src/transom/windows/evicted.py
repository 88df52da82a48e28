"""Three ways to keep some of the tokens that were evicted from the local window."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from transom.errors import InputError
from transom.tokens import TokenBuffer, TokenIds, check_ids, id_dtype
from transom.validation import IdsLike

__all__ = ["Compress", "Compressed", "EvictedIds", "Recent", "Uniform"]

Compress = Callable[[TokenIds], IdsLike]


class EvictedIds(ABC):
    """At most `size` token ids that stand for all evicted ones, however they were split."""

    def __init__(self, size: int, vocab_size: int) -> None:
        self.size = size
        self.vocab_size = vocab_size
        self._kept = TokenBuffer(id_dtype(vocab_size))

    @abstractmethod
    def take(self, ids: TokenIds) -> None:
        """Take ids that have just been evicted; when this raises, none of them were taken."""

    @property
    def ids(self) -> TokenIds:
        """The ids kept, `(tokens,)`, oldest first; read-only."""
        return self._kept.rows

    @property
    def verbatim(self) -> int:
        """How many of the kept ids are tokens as they came."""
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return self._kept.nbytes


class Recent(EvictedIds):
    """Keeps the newest ids."""

    def take(self, ids: TokenIds) -> None:
        self._kept.keep(ids, newest=self.size)


class Uniform(EvictedIds):
    """Keeps every n-th id, counted from the first; n doubles when there would be too many."""

    def __init__(self, size: int, vocab_size: int) -> None:
        super().__init__(size, vocab_size)
        self._taken = 0
        self._every = 1

    def take(self, ids: TokenIds) -> None:
        start, self._taken = self._taken, self._taken + len(ids)
        before = self._every
        while -(-self._taken // self._every) > self.size:
            self._every *= 2
        if self._every > before:
            thinned = self._kept.rows[:: self._every // before]
            self._kept = TokenBuffer(thinned.dtype)
            self._kept.append(thinned)
        self._kept.append(ids[-start % self._every :: self._every])


class Compressed(EvictedIds):
    """Keeps what a callable makes of each block of ids; an unfinished block is kept as it is."""

    def __init__(self, size: int, vocab_size: int, compress: Compress, block: int) -> None:
        super().__init__(size, vocab_size)
        self._compress = compress
        self._block = block
        self._waiting = np.empty(0, dtype=id_dtype(vocab_size))

    def take(self, ids: TokenIds) -> None:
        waiting = np.concatenate([self._waiting, ids.astype(self._waiting.dtype)])
        whole = len(waiting) - len(waiting) % self._block
        made = [self._made(waiting[at : at + self._block]) for at in range(0, whole, self._block)]
        for piece in made:
            self._kept.keep(piece, newest=self.size)
        self._waiting = waiting[whole:].copy()

    @property
    def ids(self) -> TokenIds:
        joined = np.concatenate([self._kept.rows, self._waiting])
        joined = joined[max(0, len(joined) - self.size) :]
        joined.flags.writeable = False
        return joined

    @property
    def verbatim(self) -> int:
        return len(self._waiting)

    @property
    def nbytes(self) -> int:
        return self._kept.nbytes + self._waiting.nbytes

    def _made(self, block: TokenIds) -> TokenIds:
        try:
            made = check_ids(self._compress(block.copy()), self.vocab_size)
        except InputError as error:
            raise InputError(f"what global_strategy returned for a block: {error}") from error
        if len(made) > len(block):
            raise InputError(
                f"global_strategy returned {len(made)} ids for a block of {len(block)}; expected "
                "at most as many as it was given."
            )
        return made

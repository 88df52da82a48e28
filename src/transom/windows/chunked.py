"""The memory-efficient window: whole chunks, the older ones in a file if need be."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from transom.errors import InputError
from transom.policies import Chunked
from transom.tokens import ANY_VOCABULARY, id_dtype
from transom.validation import given_folder, known_keywords
from transom.windows.base import TokenState
from transom.windows.spill import SpillFile

__all__ = ["MemoryEfficientContext"]


class MemoryEfficientContext(TokenState):
    """Recent tokens in chunks of `chunk_size`; the oldest leaves whole when room is needed.

    Never holds more than `max_length` tokens, and allocates a chunk when its first token comes.
    With `spill`, at most `ram_bytes` of chunks are in memory and the older ones in a file, which
    takes its full size at once, has no name, and is gone with the window however that ends. It is
    the file of one process: in a fork, adding and showing tokens is refused, until `clear` makes
    another file; a pickled window can be taken along.

    Args:
        max_length: most tokens held.
        chunk_size: tokens per chunk.
        spill: folder for the file; None for no file.
        ram_bytes: most bytes of chunks in memory; needs `spill`, and must hold two chunks.
        vocab_size: ids are below it.

    Raises:
        InputError: on sizes that make no sense, a folder that cannot be written to, or too little
            room there.

    >>> context = MemoryEfficientContext(max_length=8, chunk_size=4, vocab_size=50_000)
    >>> context.add_tokens(range(9))
    >>> context.get_context(), context.dropped, context.nbytes
    (array([4, 5, 6, 7, 8], dtype=uint16), 4, 16)
    """

    name: ClassVar[str] = "memory_efficient"
    summary: ClassVar[str] = "recent tokens in whole chunks, the older ones in a file if need be"

    @known_keywords
    def __init__(
        self,
        max_length: int = 512,
        chunk_size: int = 128,
        *,
        spill: str | os.PathLike[str] | None = None,
        ram_bytes: int | None = None,
        vocab_size: int = ANY_VOCABULARY,
    ) -> None:
        self.max_length = self._whole("max_length", max_length)
        self.chunk_size = self._whole("chunk_size", chunk_size)
        if self.chunk_size > self.max_length:
            raise InputError(
                f"MemoryEfficientContext: chunk_size is {chunk_size} and max_length {max_length}; "
                "a chunk must fit, so expected chunk_size <= max_length."
            )
        self.spill = (
            None if spill is None else given_folder("MemoryEfficientContext", "spill", spill)
        )
        self.ram_bytes = ram_bytes
        self._most = -(-self.max_length // self.chunk_size)
        self._resident = self._most
        if (spill is None) != (ram_bytes is None):
            raise InputError(
                "MemoryEfficientContext: spill and ram_bytes go together; expected a folder for "
                f"the chunks that are not in memory and a budget for those that are, got "
                f"spill={spill!r} and ram_bytes={ram_bytes!r}."
            )
        if ram_bytes is not None:
            two = 2 * self.chunk_size * id_dtype(self._whole("vocab_size", vocab_size)).itemsize
            self.ram_bytes = self._whole("ram_bytes", ram_bytes, minimum=two, unit="bytes")
            self._resident = min(self._most, 2 * self.ram_bytes // two)
        self._file: SpillFile | None = None
        super().__init__(vocab_size)

    @property
    def policy(self) -> Chunked:
        return Chunked(self.max_length, chunk=self.chunk_size)

    @property
    def ids(self) -> NDArray[Any]:
        """The ids shown, `(tokens,)`, oldest first: a copy, read from the file where spilled."""
        held = [*self.chunks()]
        joined = np.concatenate(held) if held else np.empty(0, dtype=self._dtype)
        joined.flags.writeable = False
        return joined

    @property
    def nbytes(self) -> int:
        """Bytes of memory allocated for tokens; see `file_nbytes` for the others."""
        return len(self._chunks) * self.chunk_size * self._dtype.itemsize

    @property
    def file_nbytes(self) -> int:
        """Bytes the spill file takes on disk; 0 without one."""
        return self._file.nbytes if self._file is not None else 0

    def get_context(self) -> NDArray[Any]:
        """The ids shown, in one array; `chunks` gives them without ever being all in memory."""
        return self.ids

    def chunks(self) -> Iterator[NDArray[Any]]:
        """The chunks held, oldest first, `(chunk_size,)` each but the last, which may be filling.

        They are read-only copies. Tokens must not be added meanwhile.
        """
        in_memory = self._next_chunk - len(self._chunks)
        for number in range(self._first_chunk(self.seen), self._next_chunk):
            if number < in_memory:
                assert self._file is not None
                chunk = self._file.read(number)
            else:
                chunk = self._chunks[number - in_memory].copy()
            chunk = chunk[: self.seen - number * self.chunk_size]
            chunk.flags.writeable = False
            yield chunk

    def clear(self) -> None:
        self.seen = 0
        self._chunks: deque[NDArray[Any]] = deque()  # the newest ones, those in memory
        spills = self.spill is not None and self._most > self._resident
        if spills and (self._file is None or not self._file.owner.is_here):
            assert self.spill is not None
            self._file = SpillFile(
                self.spill, slots=self._most, length=self.chunk_size, dtype=self._dtype
            )

    def __len__(self) -> int:
        return self.seen - self._first_chunk(self.seen) * self.chunk_size

    def _first_chunk(self, seen: int) -> int:
        """Number of the oldest chunk held then, counted from the first token of all."""
        return max(0, -(-(seen - self.max_length) // self.chunk_size))

    @property
    def _next_chunk(self) -> int:
        return -(-self.seen // self.chunk_size)

    def _take(self, ids: NDArray[Any]) -> None:
        if self._file is not None:
            self._file.owner.check()  # before anything is changed
        # What would be dropped again by the end is not stored in the first place.
        stop = self.seen + len(ids)
        start = self._first_chunk(stop) * self.chunk_size
        if start > self.seen:
            self._chunks.clear()
            ids = ids[start - self.seen :]
            self.seen = start
        while len(ids):
            column = self.seen % self.chunk_size
            room = self.chunk_size - column
            piece, ids = ids[:room], ids[room:]
            self._make_room(self.seen + len(piece))
            if column == 0:
                self._chunks.append(np.empty(self.chunk_size, dtype=self._dtype))
            self._chunks[-1][column : column + len(piece)] = piece
            self.seen += len(piece)

    def _make_room(self, coming: int) -> None:
        """Drop the chunks not held once `coming` tokens are seen, and spill what must leave."""
        oldest = self._next_chunk - len(self._chunks)
        if oldest < self._first_chunk(coming):
            self._chunks.popleft()
        elif self._next_chunk * self.chunk_size < coming and len(self._chunks) == self._resident:
            assert self._file is not None
            self._file.write(oldest, self._chunks.popleft())

    def __getstate__(self) -> dict[str, Any]:
        return {"settings": self._settings(), "seen": self.seen, "ids": self.ids}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state["settings"])  # type: ignore[misc]
        self.seen = state["seen"] - len(state["ids"])
        self._take(state["ids"])

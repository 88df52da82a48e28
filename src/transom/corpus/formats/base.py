"""The base of all file formats that a corpus can be written in or read from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np

from transom.corpus.reader import CorpusReader
from transom.corpus.writer import CorpusWriter
from transom.errors import InputError
from transom.tokens import TokenIds

__all__ = ["Format", "Moved", "mapped", "unheard"]

Moved = Callable[[int], None]  # called with how many more tokens were written or read


def unheard(tokens: int) -> None:
    """The default of `moved`: ignores the progress."""


class Format(ABC):
    """A file format for token ids that other programs read.

    Attributes:
        name: name of the format.
        summary: one line about it.
        readable: whether a corpus can be made from it.
        separated: whether it holds only ids, so that a separator marks where documents end.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    readable: ClassVar[bool] = True
    separated: ClassVar[bool] = False

    @abstractmethod
    def files(self, out: Path) -> list[Path]:
        """The files, or the folder, that `write` makes for `out`."""

    @abstractmethod
    def write(
        self, corpus: CorpusReader, out: Path, *, separator: int | None = None, moved: Moved
    ) -> None:
        """Write a corpus; existing `files` are replaced when all is written.

        Args:
            corpus: the corpus to write.
            out: name of the file, see `files`.
            separator: the id that ends documents, for a `separated` format; it is in the
                vocabulary.
            moved: called with how many more tokens were written.

        Raises:
            InputError: when the format cannot hold all of the corpus.
        """

    def read(
        self, source: Path, writer: CorpusWriter, *, separator: int | None = None, moved: Moved
    ) -> None:
        """Append all documents of `source` to a corpus; the caller commits.

        Raises:
            InputError: when the files do not have this format.
        """
        raise InputError(f"{self.name} cannot be read back into a corpus.")


def mapped(
    path: Path, dtype: str | np.dtype[np.integer], offset: int = 0, count: int | None = None
) -> TokenIds:
    """Numbers in a file, memory-mapped.

    Args:
        path: the file.
        dtype: dtype of the numbers.
        offset: bytes to skip.
        count: how many numbers; by default all.

    Raises:
        InputError: when the file has too few bytes, or cannot be read.
    """
    kind: np.dtype[np.integer] = np.dtype(dtype)
    try:
        size = path.stat().st_size - offset
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from error
    if not path.is_file():
        raise InputError(f"cannot read {path}: it is not a regular file.")
    if count is None:
        count, rest = divmod(size, kind.itemsize)
        if rest:
            raise InputError(
                f"{path} has {size:,} bytes, which are not a whole number of {kind.name} ids."
            )
    if size < count * kind.itemsize:
        raise InputError(
            f"{path} has {size + offset:,} bytes; expected {offset + count * kind.itemsize:,}."
        )
    if not count:
        return np.empty(0, dtype=kind)
    try:
        return np.memmap(path, dtype=kind, mode="r", offset=offset, shape=(count,))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from error

"""What every format of token files is: something that corpora are written as, or read from."""

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
    """For when nobody wants to know."""


class Format(ABC):
    """Files of token ids that other programs read, and most of them write.

    Attributes:
        name: what it is called.
        summary: what it is, in a line.
        readable: whether corpora can be made from it.
        separated: whether ids are all it has, so that a separator says where documents end.
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
        """Write a corpus; what is there under the names of `files` is replaced when all is done.

        Args:
            separator: the id that ends documents, where the format keeps no ends beside ids; one
                of the corpus' vocabulary.

        Raises:
            InputError: when the format cannot hold it without losing something.
        """

    def read(
        self, source: Path, writer: CorpusWriter, *, separator: int | None = None, moved: Moved
    ) -> None:
        """Append all documents to a corpus, which the caller commits.

        Raises:
            InputError: when the files are not what the format says.
        """
        raise InputError(f"{self.name} cannot be read back into a corpus.")


def mapped(
    path: Path, dtype: str | np.dtype[np.integer], offset: int = 0, count: int | None = None
) -> TokenIds:
    """Numbers in a file, through a memory map.

    Raises:
        InputError: when there are not as many, or the file cannot be read.
    """
    kind: np.dtype[np.integer] = np.dtype(dtype)
    try:
        size = path.stat().st_size - offset
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from error
    if not path.is_file():
        raise InputError(f"cannot read {path}: it is no file.")
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

"""The documents in a file of text."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from transom.errors import InputError
from transom.forks import Owner
from transom.tokens.decode import (
    BROKEN,
    COMPRESSED,
    decoded,
    decompressed,
    need_pyarrow,
    unreadable,
)

__all__ = ["Document", "Documents", "documents"]

ROWS = 256  # of a Parquet file, read at a time


class Document(NamedTuple):
    """One text.

    Attributes:
        name: the file, and where in it, counted from 1: `books.jsonl:17`; just the file where that
            is one document.
        text: all of it; or an iterator over its pieces where it is a file. Those are to be used
            before the next document is asked for.
    """

    name: str
    text: str | Iterator[str]


def documents(path: str | os.PathLike[str], *, field: str = "text") -> Documents:
    r"""The documents of a file, in order.

    A `.txt` file is one document: UTF-8, of which a mark at the start is left out, with `\r\n` as
    `\n`. A `.jsonl` file has one per line that is not blank, in the field called `field`. Both may
    be compressed, as `.gz` or `.zst`. A `.parquet` file has one per row, in the column of that
    name.

    Raises:
        InputError: when there is no such file, its suffix is another one, or what is in it is not
            as it should be; the message says where.
        MissingExtraError: when pyarrow is needed, for `.zst` and `.parquet`, and not installed.
    """
    return Documents(Path(path), field)


class Documents(Iterator[Document]):
    """Reads documents from a file, which is closed when they have all been read.

    Attributes:
        size: bytes of the file.
        read: how many of them have been read so far, in about; for a progress bar.
    """

    def __init__(self, path: Path, field: str) -> None:
        self._path = path
        self._field = field
        self._owner = Owner(f"the reading of {path}", InputError)
        kind = path.with_suffix("").suffix if path.suffix in COMPRESSED else path.suffix
        readers = {".txt": self._text, ".jsonl": self._lines, ".parquet": self._rows}
        if kind not in readers or (kind == ".parquet" and kind != path.suffix):
            raise InputError(
                f"cannot tell what is in {path}; expected a file called .txt, .jsonl or .parquet, "
                f"the first two also with {' or '.join(COMPRESSED)} behind it."
            )
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise unreadable(str(path), error) from error
        self.size = os.fstat(self._file.fileno()).st_size
        self._at = 0
        self._found = readers[kind]()

    def __next__(self) -> Document:
        self._owner.check()  # or a fork would take lines away from its parent
        return next(self._found)

    @property
    def read(self) -> int:
        if not self._file.closed:
            self._at = max(self._at, self._file.tell())
        return self._at

    def close(self) -> None:
        """Close the file before the end."""
        self._file.close()

    def _text(self) -> Iterator[Document]:
        with self._file as file:
            yield Document(str(self._path), self._pieces(file))
            self._at = self.size

    def _pieces(self, file: BinaryIO) -> Iterator[str]:
        yield from decoded(decompressed(file, self._path), str(self._path))

    def _lines(self) -> Iterator[Document]:
        with self._file as file:
            lines = enumerate(decompressed(file, self._path), 1)
            while True:
                try:
                    number, line = next(lines, (0, b""))
                except BROKEN as error:
                    raise unreadable(str(self._path), error) from error
                if not number:
                    break
                if line.strip():
                    name = f"{self._path}:{number}"
                    yield Document(name, self._of_line(line, name))
            self._at = self.size

    def _of_line(self, line: bytes, name: str) -> str:
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(
                f"{name} is not JSON ({error}); expected an object per line, with the text in its "
                f"field {self._field!r}."
            ) from error
        if not isinstance(row, dict):
            raise InputError(f"{name} is {type(row).__name__}; expected an object per line.")
        if self._field not in row:
            raise InputError(
                f"{name} has no field {self._field!r}; it has {', '.join(map(repr, row)):.200}."
            )
        return self._checked(row[self._field], name)

    def _rows(self) -> Iterator[Document]:
        with self._file as file:
            need_pyarrow(self._path)
            import pyarrow as pa
            from pyarrow import parquet

            try:
                table = parquet.ParquetFile(file)
                names = table.schema_arrow.names
                if self._field not in names:
                    raise InputError(
                        f"{self._path} has no column {self._field!r}; it has "
                        f"{', '.join(map(repr, names)):.200}."
                    )
                number = 0
                for batch in table.iter_batches(ROWS, columns=[self._field]):
                    for text in batch.column(0).to_pylist():
                        number += 1
                        name = f"{self._path}:{number}"
                        yield Document(name, self._checked(text, name))
                        self._at = self.size * number // table.metadata.num_rows
            except pa.ArrowException as error:
                raise unreadable(str(self._path), error) from error
            self._at = self.size

    def _checked(self, text: Any, name: str) -> str:
        if not isinstance(text, str):
            raise InputError(
                f"{name} has {type(text).__name__} as {self._field!r}; expected text there."
            )
        return text

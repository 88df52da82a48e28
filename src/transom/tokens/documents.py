"""The documents in a file of text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from transom.errors import InputError
from transom.forks import Owner
from transom.tokens.decode import (
    BROKEN,
    COMPRESSED,
    advice_on,
    decoded,
    decompressed,
    unreadable,
)
from transom.tokens.json_line import read_object
from transom.tokens.parquet import Column
from transom.validation import known_keywords, named_path

__all__ = ["Document", "Documents", "Known", "documents", "has_rows", "kind_of", "unknown_kind"]

KINDS = {
    ".txt": "text",
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".json": "lines",
    ".parquet": "rows",
}


class Document(NamedTuple):
    """One text.

    Attributes:
        name: the file and the line or row in it, from 1 on: `books.jsonl:17`; only the file when
            it is one document.
        text: all of it; for a document that is a whole file, an iterator over pieces, which must
            be used up before the next document is asked for.
    """

    name: str
    text: str | Iterator[str]


class Known(NamedTuple):
    """Size and time of a file, to tell whether it has changed.

    Attributes:
        bytes: its size.
        changed: when it was last written to, in nanoseconds.
    """

    bytes: int
    changed: int


@known_keywords
def documents(path: str | os.PathLike[str], *, field: str = "text") -> Documents:
    r"""The documents of a file, in order.

    A `.txt` file is one document in UTF-8; a byte order mark is left out, and `\r\n` read as
    `\n`. A `.jsonl`, `.ndjson` or `.json` file has one document per line that is not blank, in
    the field `field`. All of these may be compressed, as `.gz` or `.zst`. A `.parquet` file has
    one document per row, in the column `field`. Suffixes may be in upper case.

    Raises:
        InputError: when the file does not exist, has another suffix, has wrong content, or changes
            while it is read; the message says where.
        MissingExtraError: when pyarrow is needed, for `.zst` or `.parquet`, and not installed.
    """
    return Documents(named_path("a file's name", path), field)


def kind_of(path: Path) -> str | None:
    """The content of a file by its suffix: `text`, `lines` or `rows`; None for other suffixes.

    >>> kind_of(Path("c4.0001.json.gz")), kind_of(Path("A.TXT")), kind_of(Path("a.csv"))
    ('lines', 'text', None)
    """
    packed = path.suffix.lower() in COMPRESSED
    kind = KINDS.get((path.with_suffix("") if packed else path).suffix.lower())
    return None if packed and kind == "rows" else kind


def has_rows(path: Path) -> bool:
    """Whether a file may have several documents, going by its suffix."""
    return kind_of(path) in ("lines", "rows")


def unknown_kind(path: Path) -> InputError:
    """The error to raise for a file with an unknown suffix."""
    return InputError(
        f"cannot tell what is in {path}; expected a name that ends in {', '.join(KINDS)}; all "
        f"but the last may be followed by {' or '.join(COMPRESSED)}."
    )


class Documents(Iterator[Document]):
    """Reads documents from a file, which is closed when they have all been read.

    Attributes:
        size: bytes of the file.
        read: about how many of them were read so far, for a progress bar.
        known: size and time of the file; once it is read to its end, as it was then.
    """

    def __init__(self, path: Path, field: str) -> None:
        self._path = path
        self._field = field
        self._owner = Owner(f"the reading of {path}", InputError)
        readers = {"text": self._text, "lines": self._lines, "rows": self._rows}
        kind = kind_of(path)
        if kind is None:
            raise unknown_kind(path)
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise unreadable(str(path), error) from error
        self.known = self._now()
        self.size = self.known.bytes
        # Kept until the end: when it is garbage-collected, it closes the file.
        self._unpacked: BinaryIO = self._file
        self._at = 0
        self._found = readers[kind]()

    def __next__(self) -> Document:
        self._owner.check()  # a fork would take lines away from its parent
        return next(self._found)

    @property
    def read(self) -> int:
        if not self._file.closed:
            self._at = max(self._at, self._file.tell())
        return self._at

    def close(self) -> None:
        """Close the file early."""
        self._file.close()

    def _now(self) -> Known:
        found = os.fstat(self._file.fileno())
        return Known(found.st_size, found.st_mtime_ns)

    def _end(self, grows: bool = True) -> None:
        """Note size and time of the file, which was read to its end.

        Args:
            grows: whether bytes may have been appended meanwhile.

        Raises:
            InputError: when the file was changed in another way.
        """
        now = self._now()
        if now != self.known:
            if now.bytes <= self.size or not grows:
                raise InputError(
                    f"{self._path} was changed while it was read: it had {self.size:,} bytes, and "
                    f"has {now.bytes:,}; expected a file that nothing else writes to. Read a copy "
                    "of it."
                )
            self.known = Known(self._file.tell(), now.changed)
        self._at = self.size

    def _text(self) -> Iterator[Document]:
        with self._file as file:
            yield Document(str(self._path), self._pieces(file))
            self._end()

    def _pieces(self, file: BinaryIO) -> Iterator[str]:
        self._unpacked = decompressed(file, self._path)
        yield from decoded(self._unpacked, str(self._path))

    def _lines(self) -> Iterator[Document]:
        with self._file as file:
            self._unpacked = decompressed(file, self._path)
            lines = enumerate(self._unpacked, 1)
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
            self._end()

    def _of_line(self, line: bytes, name: str) -> str:
        try:
            row = read_object(line)
        except InputError as error:
            advice = advice_on(line)
            more = f"; {advice}" if advice else f", with the text in its field {self._field!r}"
            raise InputError(f"{name} {error}{more}.") from error
        if self._field not in row:
            there = ", ".join(map(repr, row)) or "none"
            raise InputError(f"{name} has no field {self._field!r}; it has {there:.200}.")
        return self._checked(row[self._field], name)

    def _rows(self) -> Iterator[Document]:
        with self._file as file:
            column = Column(file, self._path, self._field)
            for number, text in enumerate(column, 1):
                name = f"{self._path}:{number}"
                yield Document(name, self._checked(text, name))
                self._at = self.size * number // column.rows
            self._end(grows=False)

    def _checked(self, text: object, name: str) -> str:
        if not isinstance(text, str):
            raise InputError(
                f"{name} has {type(text).__name__} as {self._field!r}; expected text there."
            )
        return text

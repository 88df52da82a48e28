"""The text to read: a file or standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO

from transom.cli.values import STREAM
from transom.errors import InputError
from transom.tokens.decode import decoded, decompressed
from transom.tokens.documents import documents, has_rows

__all__ = ["read_documents", "read_pieces", "read_text", "size_of"]


def read_text(source: str) -> str:
    """All of the file called `source`, or of standard input for `-`, with plain newlines.

    A file whose name ends in `.gz` or `.zst` is unpacked.

    Raises:
        InputError: when it cannot be read, is not UTF-8, or holds no text.
    """
    return "".join(piece for piece, _ in read_pieces(source))


def read_pieces(source: str) -> Iterator[tuple[str, int]]:
    """The text of `read_text` in pieces, each with the number of bytes read so far.

    Raises:
        InputError: as `read_text` does.
    """
    name = "standard input" if source == STREAM else source
    blank = True
    with _opened(source) as file:
        unpacked = file if source == STREAM else decompressed(file, Path(source))
        for piece in decoded(unpacked, name):
            blank = blank and not piece.strip()
            yield piece, 0 if source == STREAM else file.tell()
    if blank:
        raise InputError(f"{name} is empty; expected some text to read.")


def read_documents(source: str, field: str) -> Iterator[tuple[str, Iterator[tuple[str, int]]]]:
    """The documents in the file called `source`: the name of each, and its text in pieces.

    A file whose suffix means rows has one document per row, as in a corpus. Any other file is one
    document. The pieces are those of `read_pieces`.

    Raises:
        InputError: as `read_pieces` does, and when a row has no text in `field`.
        MissingExtraError: when a package that is needed to read the file is not installed.
    """
    if source == STREAM or not has_rows(Path(source)):
        yield source, read_pieces(source)
        return
    found = documents(source, field=field)
    some = False
    for name, text in found:
        some = True
        yield name, ((piece, found.read) for piece in ((text,) if isinstance(text, str) else text))
    if not some:
        raise InputError(f"{source} is empty; expected at least one row.")


def size_of(source: str) -> int:
    """Bytes of the file called `source`; 0 for standard input, whose size is unknown.

    Raises:
        InputError: when there is no such file.
    """
    try:
        return 0 if source == STREAM else Path(source).stat().st_size
    except OSError as error:
        raise _unreadable(source, error) from error


def _opened(source: str) -> AbstractContextManager[BinaryIO]:
    if source == STREAM and sys.stdin is None:
        raise InputError("cannot read standard input: it is closed; expected text there.")
    try:
        return nullcontext(sys.stdin.buffer) if source == STREAM else Path(source).open("rb")
    except OSError as error:
        raise _unreadable(source, error) from error


def _unreadable(name: str, error: OSError) -> InputError:
    return InputError(
        f"cannot read {name or repr(name)}: {error.strerror}; expected a text file, or - for "
        "standard input."
    )

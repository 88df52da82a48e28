"""Bytes of a file as text, a piece at a time."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from transom.errors import InputError, MissingExtraError

__all__ = ["BROKEN", "COMPRESSED", "decoded", "decompressed", "need_pyarrow", "unreadable"]

AT_ONCE = 1 << 18  # bytes read at a time: few enough for a progress bar to move
COMPRESSED = (".gz", ".zst")
BROKEN = (OSError, EOFError, zlib.error)  # what reading a file may raise, compressed ones included


def decoded(file: BinaryIO, name: str) -> Iterator[str]:
    """The text in a file, a piece at a time: UTF-8, a mark at the start left out, plain newlines.

    Raises:
        InputError: when it cannot be read, or is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    read, held = 0, ""
    while True:
        try:
            data = file.read(AT_ONCE)
        except BROKEN as error:
            raise unreadable(name, error) from error
        read += len(data)
        try:
            text = held + decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            offset = read - len(error.object) + error.start
            raise InputError(
                f"{name} is not UTF-8 text (byte {error.object[error.start]:#04x} at offset "
                f"{offset:,}); convert it first, e.g. with iconv -t UTF-8."
            ) from error
        # The end of a line may be cut in two.
        held = "\r" if data and text.endswith("\r") else ""
        text = text[: len(text) - len(held)].replace("\r\n", "\n")
        if text:
            yield text
        if not data:
            return


def decompressed(file: BinaryIO, path: Path) -> BinaryIO:
    """What reads the bytes in a file that is compressed, going by the suffix of its name.

    Raises:
        MissingExtraError: when the package that it takes is not installed.
    """
    if path.suffix == ".gz":
        return cast("BinaryIO", gzip.GzipFile(fileobj=file))
    if path.suffix == ".zst":
        pa = need_pyarrow(path)
        return io.BufferedReader(
            pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd"), AT_ONCE
        )
    return file


def need_pyarrow(path: Path) -> Any:
    """The module, or an error that says what it is needed for."""
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise MissingExtraError(
            f"reading {path} needs pyarrow, which is not installed: pip install 'transom[export]'.",
            name="pyarrow",
        ) from error
    return pyarrow


def unreadable(name: str, error: Exception) -> InputError:
    """The error to raise when a file cannot be read."""
    return InputError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}.")

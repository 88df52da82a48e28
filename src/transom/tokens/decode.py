"""Decodes the bytes of a file to text, a piece at a time."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, cast

from transom.errors import InputError, MissingExtraError

__all__ = [
    "BROKEN",
    "COMPRESSED",
    "advice_on",
    "decoded",
    "decompressed",
    "need_pyarrow",
    "unreadable",
]

ENCODED = "convert it first, e.g. with iconv -t UTF-8"
STARTS = {  # first bytes of files that are not text, and what to do with them
    b"\x1f\x8b": "it is compressed with gzip: let its name end in .gz, or unpack it with gunzip",
    b"\x28\xb5\x2f\xfd": "it is compressed with zstd: let its name end in .zst, or unpack it",
    b"BZh": "it is compressed with bzip2: unpack it with bunzip2",
    b"\xfd7zXZ": "it is compressed with xz: unpack it with unxz",
    b"PK\x03\x04": "it is a zip archive: unpack it",
    b"%PDF": "it is a PDF: take the text out of it, e.g. with pdftotext",
    b"PAR1": "it is Parquet: let its name end in .parquet",
    b"\xff\xfe\0\0": "it is UTF-32: convert it with iconv -f UTF-32 -t UTF-8",
    b"\xff\xfe": "it is UTF-16: convert it with iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "it is UTF-16: convert it with iconv -f UTF-16 -t UTF-8",
}
ZEROS = "01", "10", "0111", "1110"  # which bytes of English are 0 in UTF-16 and UTF-32
WIDE = "it is UTF-16 or UTF-32, without a mark that says which: convert it with iconv -t UTF-8"
LONG = "it was compressed with --long: unpack it with zstd -d --long=31"
AT_LEAST = 16  # bytes: no text has so many zeros by chance, and no beginning above is longer
AT_ONCE = 1 << 18  # bytes read at a time: few enough for a progress bar to move
COMPRESSED = (".gz", ".zst")
BROKEN = (OSError, EOFError, zlib.error)  # what reading a file may raise, also a compressed one


def decoded(file: BinaryIO, name: str) -> Iterator[str]:
    """The text in a UTF-8 file, a piece at a time, without byte order mark and with plain newlines.

    Raises:
        InputError: when it cannot be read, or is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    read, held, start = 0, "", b""
    while True:
        try:
            data = file.read(AT_ONCE)
        except BROKEN as error:
            raise unreadable(name, error) from error
        if not start:
            start = data[:AT_LEAST]
            # Such bytes are valid UTF-8 too, with zeros in between.
            if (advice := advice_on(start)) is WIDE:
                raise InputError(f"{name} is not UTF-8 text: {advice}.")
        read += len(data)
        try:
            text = held + decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            offset = read - len(error.object) + error.start
            raise InputError(
                f"{name} is not UTF-8 text (byte {error.object[error.start]:#04x} at offset "
                f"{offset:,}); {advice_on(start) or ENCODED}."
            ) from error
        # A piece may end between `\r` and `\n`.
        held = "\r" if data and text.endswith("\r") else ""
        text = text[: len(text) - len(held)].replace("\r\n", "\n")
        if text:
            yield text
        if not data:
            return


def decompressed(file: BinaryIO, path: Path) -> BinaryIO:
    """A reader of the decompressed bytes of a file, by the suffix of its name.

    Raises:
        InputError: when a compressed file has 0 bytes, which no compressor writes.
        MissingExtraError: when the package for it is not installed.
    """
    suffix = path.suffix.lower()
    if suffix in COMPRESSED and os.fstat(file.fileno()).st_size == 0:
        raise InputError(
            f"cannot read {path}: it has 0 bytes, and even an empty text has some when compressed; "
            "it was not written to its end."
        )
    if suffix == ".gz":
        return cast("BinaryIO", gzip.GzipFile(fileobj=file))
    if suffix == ".zst":
        pa = need_pyarrow(path)
        return io.BufferedReader(
            pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd"), AT_ONCE
        )
    return file


def advice_on(data: bytes) -> str | None:
    """What to do with a file that starts with these bytes; None when that is not known.

    >>> advice_on(b"BZh91AY")
    'it is compressed with bzip2: unpack it with bunzip2'
    """
    zeros = "".join("01"[not byte] for byte in data[:AT_LEAST])
    if len(zeros) == AT_LEAST and any((order * AT_LEAST).startswith(zeros) for order in ZEROS):
        return WIDE
    return next((advice for start, advice in STARTS.items() if data.startswith(start)), None)


def need_pyarrow(path: Path) -> ModuleType:
    """The module pyarrow, or an error that says what it is needed for."""
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise MissingExtraError(
            f"reading {path} needs pyarrow, which is not installed: pip install 'transom[export]'.",
            name="pyarrow",
        ) from error
    module: ModuleType = pyarrow
    return module


def unreadable(name: str, error: Exception) -> InputError:
    """The error to raise when a file cannot be read."""
    reason = getattr(error, "strerror", None) or str(error).strip().rstrip(".")
    more = f"; {LONG}" if "requires too much memory" in reason else ""
    return InputError(f"cannot read {name}: {reason}{more}.")

"""The text to read: a file or standard input."""

from __future__ import annotations

import sys
from pathlib import Path

from transom.errors import InputError

__all__ = ["read_text", "size_of"]

STDIN = "-"


def read_text(source: str) -> str:
    """All of the file called `source`, or of standard input for `-`, with plain newlines.

    Raises:
        InputError: when it cannot be read, is not UTF-8, or holds no text.
    """
    name = "standard input" if source == STDIN else source
    try:
        data = sys.stdin.buffer.read() if source == STDIN else Path(source).read_bytes()
    except OSError as error:
        raise _unreadable(name, error) from error
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} is not UTF-8 text (byte {data[error.start]:#04x} at offset {error.start:,}); "
            "convert it first, e.g. with iconv -t UTF-8."
        ) from error
    if not text.strip():
        raise InputError(f"{name} is empty; expected some text to read.")
    return text


def size_of(source: str) -> int:
    """Bytes of the file called `source`; 0 for standard input, whose size is not known.

    Raises:
        InputError: when there is no such file.
    """
    try:
        return 0 if source == STDIN else Path(source).stat().st_size
    except OSError as error:
        raise _unreadable(source, error) from error


def _unreadable(name: str, error: OSError) -> InputError:
    return InputError(
        f"cannot read {name}: {error.strerror}; expected a text file, or - for standard input."
    )

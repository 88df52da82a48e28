"""Reads a line of JSON."""

from __future__ import annotations

import json
from typing import Any

from transom.errors import InputError

__all__ = ["JsonObject", "read_object"]

JsonObject = dict[str, Any]


def read_object(line: bytes | str) -> JsonObject:
    """The object on a line. Whole numbers with more digits than Python allows become floats.

    Raises:
        InputError: when it is something else; the message continues a sentence about the line.

    >>> read_object('{"text": "a"}')
    {'text': 'a'}
    """
    try:
        row = json.loads(line, parse_int=_whole)
    except RecursionError as error:
        raise InputError(
            "is nested too deeply to be read; expected an object per line, some hundred levels deep"
        ) from error
    except ValueError as error:
        raise InputError(f"is not JSON ({error}); expected an object per line") from error
    if not isinstance(row, dict):
        raise InputError(f"is {type(row).__name__}; expected an object per line")
    return row


def _whole(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:
        return float(digits)

"""Keys and headers that callers gave to a tier, checked."""

from __future__ import annotations

import numpy as np

from transom.errors import InputError

__all__ = ["as_key", "given_header", "given_key"]

LARGEST_KEY = 2**64 - 1


def as_key(key: object) -> int | None:
    """`key` as a number; None when a tier can hold nothing under it."""
    if type(key) is not int and (not isinstance(key, (int, np.integer)) or isinstance(key, bool)):
        return None
    return int(key) if 1 <= key <= LARGEST_KEY else None


def given_key(tier: str, key: object) -> int:
    """`key` as a number.

    Args:
        tier: name of the tier, for errors.
        key: what was given.

    Raises:
        InputError: when it is no key.
    """
    found = as_key(key)
    if found is None:
        raise InputError(
            f"{tier} tier: {key!r} ({type(key).__name__}) is no key; expected a whole "
            "number from 1 to 2**64 - 1."
        )
    return found


def given_header(tier: str, header: object) -> bytes:
    """`header` as bytes.

    Args:
        tier: name of the tier, for errors.
        header: what was given.

    Raises:
        InputError: when it is not bytes.
    """
    if type(header) is bytes:
        return header
    if not isinstance(header, (bytes, bytearray, memoryview)):
        raise InputError(
            f"{tier} tier: {header!r:.100} ({type(header).__name__}) is no header; expected bytes."
        )
    return bytes(header)

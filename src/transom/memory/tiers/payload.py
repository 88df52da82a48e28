"""Payloads: the bytes that tiers hold, and how they compare."""

from __future__ import annotations

from collections.abc import ItemsView, MutableMapping, ValuesView

import numpy as np
from numpy.typing import NDArray

from transom.errors import InputError

__all__ = ["Items", "Payload", "Values", "as_payload", "same_bytes"]

Payload = NDArray[np.uint8]


def as_payload(payload: object) -> Payload:
    """The bytes of `payload`, `(bytes,)` uint8, sharing its memory.

    Raises:
        InputError: when it has no contiguous buffer.

    >>> as_payload(b"ab")
    array([97, 98], dtype=uint8)
    """
    try:
        if type(payload) is np.ndarray and payload.ndim == 1 and payload.flags.c_contiguous:
            found: Payload = payload.view(np.uint8)
            return found
        view = memoryview(payload)  # type: ignore[arg-type]  # a TypeError says so
        return np.frombuffer(view.cast("B") if view.nbytes else b"", dtype=np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise InputError(
            f"cannot store {type(payload).__name__} ({error}); expected bytes, or an object whose "
            "memory is one contiguous buffer."
        ) from error


def same_bytes(payload: Payload, other: object) -> bool:
    """Whether `other` has a buffer with the bytes of `payload`.

    >>> same_bytes(as_payload(b"ab"), bytearray(b"ab")), same_bytes(as_payload(b"ab"), "ab")
    (True, False)
    """
    try:
        return np.array_equal(payload, as_payload(other))
    except InputError:
        return False


class Values(ValuesView[Payload]):
    """The payloads of a tier, compared by their bytes."""

    def __contains__(self, value: object) -> bool:
        return any(same_bytes(held, value) for held in self)


class Items(ItemsView[int, Payload]):
    """Keys and payloads of a tier, compared by their bytes."""

    def __init__(self, tier: MutableMapping[int, Payload]) -> None:
        super().__init__(tier)
        self._tier = tier

    def __contains__(self, item: object) -> bool:
        if not isinstance(item, tuple) or len(item) != 2:
            return False
        held = self._tier.get(item[0])
        return held is not None and same_bytes(held, item[1])

"""Token ids from whatever holds them."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transom.checks import known_keywords
from transom.errors import InputError

__all__ = ["ANY_VOCABULARY", "as_ids", "check_ids", "id_dtype"]

ANY_VOCABULARY = 2**31  # ids up to this fit int32, which every library takes as an index


@known_keywords
def id_dtype(vocabulary: int) -> np.dtype[Any]:
    """The smallest dtype for the ids `0` to `vocabulary - 1`.

    Unsigned only below 32 bits: torch has no arithmetic on larger unsigned numbers.

    >>> id_dtype(49_152), id_dtype(128_256)
    (dtype('uint16'), dtype('int32'))
    """
    for dtype in (np.uint8, np.uint16, np.int32):
        if vocabulary - 1 <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    return np.dtype(np.int64)


@known_keywords
def as_ids(ids: Any, vocabulary: int) -> NDArray[np.int64]:
    """A copy of `ids`, `(tokens,)` int64; see `check_ids` for what is accepted.

    >>> as_ids(range(3), vocabulary=10)
    array([0, 1, 2])
    """
    return check_ids(ids, vocabulary).astype(np.int64)


@known_keywords
def check_ids(ids: Any, vocabulary: int) -> NDArray[Any]:
    """`ids` as an array `(tokens,)` of some integer dtype, which may share their memory.

    They may be a list, a range, an iterator, or a 1-D array or tensor of whole numbers; an
    iterator is used up.

    Raises:
        InputError: when they are something else, or not between 0 and `vocabulary - 1`.
    """
    if isinstance(ids, Iterator):
        ids = list(ids)
    try:
        array = np.asarray(ids.cpu() if hasattr(ids, "cpu") else ids)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"cannot use {type(ids).__name__} as token ids ({error}); expected whole numbers in "
            "one dimension."
        ) from error
    if array.ndim == 1 and array.size == 0:
        return np.empty(0, dtype=np.int64)
    if array.ndim != 1:
        raise InputError(
            f"cannot use {type(ids).__name__} of shape {array.shape} as token ids; expected "
            "whole numbers in one dimension, (tokens,)."
        )
    if array.dtype.kind in "iu":
        low, high = int(array.min()), int(array.max())
    else:
        low, high = _bounds_of_others(ids, array)
    if low < 0 or high >= vocabulary:
        raise InputError(
            f"ids range from {low} to {high}; the vocabulary has 0 to {vocabulary - 1}."
        )
    return array


def _bounds_of_others(ids: Any, array: NDArray[Any]) -> tuple[int, int]:
    """Bounds of whole numbers that no integer dtype holds; all else is refused by name."""
    values = array.tolist() if array is ids or hasattr(ids, "cpu") else list(ids)
    for index, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise InputError(
                f"cannot use {type(ids).__name__} of {array.dtype} as token ids: at index {index} "
                f"is {value!r} ({type(value).__name__}); expected whole numbers."
            )
    return min(values), max(values)

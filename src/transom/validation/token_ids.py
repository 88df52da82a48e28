"""Token ids that a user gave."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transom.errors import InputError
from transom.validation.keywords import known_keywords

__all__ = ["check_ids"]


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

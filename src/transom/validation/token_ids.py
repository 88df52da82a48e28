"""Checks of token ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from numbers import Integral
from typing import Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transom.errors import InputError
from transom.validation.keywords import known_keywords

__all__ = ["IdsLike", "TokenIds", "check_ids"]

TokenIds = NDArray[np.integer]  # `(tokens,)`, of some integer dtype


class DeviceArray(Protocol):
    """A tensor on any device, such as one of torch."""

    def cpu(self) -> ArrayLike:
        """The same in memory."""


IdsLike = Iterable[int] | ArrayLike | DeviceArray  # what `check_ids` takes


@known_keywords
def check_ids(ids: object, vocabulary: int) -> TokenIds:
    """`ids` as an array `(tokens,)` of some integer dtype, which may share their memory.

    `ids` may be a list, a range, an iterator, or a 1-D array or tensor of whole numbers; an
    iterator is used up.

    Raises:
        InputError: when it is something else, or an id is not between 0 and `vocabulary - 1`.
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


def _bounds_of_others(ids: object, array: TokenIds) -> tuple[int, int]:
    """The least and the largest of whole numbers that no integer dtype holds.

    Raises:
        InputError: when one is not a whole number.
    """
    values = (
        array.tolist()
        if array is ids or hasattr(ids, "cpu")
        else list(cast("Iterable[object]", ids))
    )
    for index, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise InputError(
                f"cannot use {type(ids).__name__} of {array.dtype} as token ids: at index {index} "
                f"is {value!r} ({type(value).__name__}); expected whole numbers."
            )
    return min(values), max(values)

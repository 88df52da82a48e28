"""Token ids from whatever holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from transom.errors import InputError

__all__ = ["as_ids"]


def as_ids(ids: Any, vocabulary: int) -> NDArray[np.int64]:
    """Ids, `(tokens,)` int64, from a list, a range, or a 1-D array or tensor of whole numbers.

    Raises:
        InputError: when they are something else, or not between 0 and `vocabulary - 1`.

    >>> as_ids(range(3), vocabulary=10)
    array([0, 1, 2])
    """
    try:
        array = np.asarray(ids.cpu() if hasattr(ids, "cpu") else ids)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"cannot use {type(ids).__name__} as token ids ({error}); expected whole numbers in "
            "one dimension."
        ) from error
    if array.ndim == 1 and array.size == 0:
        return np.empty(0, dtype=np.int64)
    if array.dtype.kind not in "iu":
        raise InputError(
            f"cannot use {type(ids).__name__} of {array.dtype} as token ids; expected text, whole "
            "numbers or chat messages."
        )
    if array.ndim != 1:
        raise InputError(f"ids have shape {array.shape}; expected one dimension, (tokens,).")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= vocabulary:
        raise InputError(
            f"ids range from {low} to {high}; this model's vocabulary has 0 to {vocabulary - 1}."
        )
    return array.astype(np.int64)
